"""`fish` against a server with a tiny random model: what is spoken, saved and streamed, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
import wave
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import jwt
import numpy as np
import numpy.typing as npt
import pytest

from tests.peers import Peer
from tests.recordings import EXAMPLE, write
from tests.servers import Server

pytest.importorskip("fish_speech.tokenizer", reason="fish-speech is not installed (requirements-fish.txt)")

RATE = 44100
SAID = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
SHORT: dict[str, Any] = {"type": "fish", "text": "Hello there.", "max_new_tokens": 8, "seed": 1, "audio_format": "none"}
LONG: dict[str, Any] = {**SHORT, "text": "One, two. " * 12, "chunk_length": 40, "max_new_tokens": 12, "stream": True}
"""Three pieces."""
ENDLESS: dict[str, Any] = {**SHORT, "max_new_tokens": 3000, "stream": True}
SAVE: dict[str, Any] = {"type": "fish", "reference_audio": "jfk.flac", "reference_text": SAID}
SCRIPTS = {
    "Latin": "Zażółć gęślą jaźń.",
    "Cyrillic": "Съешь же ещё этих мягких булок.",
    "Greek": "Καλημέρα κόσμε.",
    "Arabic": "مرحبا بالعالم.",
    "Hebrew": "שלום עולם.",
    "Devanagari": "नमस्ते दुनिया।",
    "Thai": "สวัสดีชาวโลก",
    "Han": "你好,世界。",
    "Kana": "こんにちは、せかい。",
    "Hangul": "안녕하세요 세계.",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, whisper_model: Path, fish_model: Path) -> Iterator[Server]:
    """Two places. Its media root is its folder's `media`, with a recording of a person, `jfk.flac`."""
    folder = tmp_path_factory.mktemp("fish_server")
    media = folder / "media"
    media.mkdir()
    (media / "jfk.flac").write_bytes(EXAMPLE.read_bytes())
    models = {"AI_WHISPER_MODEL": str(whisper_model), "AI_FISH_MODEL": str(fish_model)}
    with Server(folder, MEDIA_ROOTS=str(media), FISH_BATCH="2", **models) as server:
        yield server
    assert not [line for line in server.log if '"exception"' in line or "Traceback" in line]


@pytest.fixture
def url(server: Server) -> str:
    return server.url


def token_of(server: Server, owner: str) -> str:
    """Of a client of its own."""
    secret = (server.folder / "data_dir" / "secret.key").read_bytes()
    return jwt.encode({"client": f"client_{os.urandom(8).hex()}", "owner": owner}, secret, algorithm="HS256")


def written(path: str) -> npt.NDArray[np.int16]:
    """The samples of a wav file."""
    with wave.open(path) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def joined(events: list[dict[str, Any]]) -> npt.NDArray[np.int16]:
    """The samples of `audio` events, which follow each other without a hole."""
    assert [event["index"] for event in events] == list(range(len(events)))
    assert [event["start"] for event in events] == [0, *(event["end"] for event in events[:-1])]
    return np.frombuffer(b"".join(event["audio"] for event in events), "<i2")


def encodings(server: Server) -> tuple[int, int]:
    """How many recordings the codec encoded, and how many it found on disk, since its process started."""
    with urllib.request.urlopen(f"{server.url}/health", timeout=20) as health:
        voices = json.load(health)["workers"]["fish"]["processes"][0]["voices"]
    return voices["misses"], voices["disk_hits"]


async def heard(peer: Peer, job_id: str, pieces: int) -> None:
    """Return when so many pieces of a stream have arrived."""
    await peer.wait(lambda event, body: event == "audio" and body["job_id"] == job_id and body["index"] + 1 >= pieces)


# Speaking.


async def test_a_text_is_spoken_into_a_file_of_the_documented_name(url: str, server: Server) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer({**SHORT, "audio_format": "list", "id": 7})
    path = Path(answer["fish"])
    assert (path.parent, path.name[:4], path.suffix) == (server.folder / "fs_path", "tts_", ".wav")
    samples = written(answer["fish"])
    assert len(samples) > 0
    assert (answer["id"], answer["sample_rate"], answer["duration"]) == (7, RATE, round(len(samples) / RATE, 3))
    np.testing.assert_array_equal(np.float32(answer["audio_data"]) * 2**15, samples)


async def test_what_was_spoken_is_a_file_of_its_owner(url: str, server: Server) -> None:
    async with Peer(url) as peer, Peer(url, token_of(server, "ann")) as ann:
        path = (await peer.answer(SHORT))["fish"]
        assert (await peer.answer({"type": "whisp", "file": path}))["status"] == "success"
        assert (await ann.ask({"type": "whisp", "file": path}))["error_code"] == "FILE_NOT_FOUND"


async def test_joined_audio_events_are_the_file_sample_by_sample(url: str) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer({**LONG, "audio_format": "pcm"})
        events = peer.of(answer["job_id"], "audio")
    samples = written(answer["fish"])
    np.testing.assert_array_equal(joined(events), samples)
    assert answer["audio_data"] == samples.astype("<i2").tobytes()
    lengths = [event["end"] - event["start"] for event in events]
    assert lengths[0] <= 0.05 * RATE
    assert all(0.04 * RATE <= length <= 0.1 * RATE for length in lengths[1:-1])


async def test_every_form_of_sound_is_the_same_sound(url: str) -> None:
    async with Peer(url) as peer:
        answers = {
            kind: await peer.answer({**LONG, "stream": False, "audio_format": kind})
            for kind in ("none", "wav", "mp3", "opus")
        }
    samples = written(answers["none"]["fish"])
    assert "audio_data" not in answers["none"]
    assert len({answer["fish"] for answer in answers.values()}) == len(answers)
    for kind, codec, tolerance in (("wav", "pcm_s16le", 1e-6), ("mp3", "mp3float", 0.06), ("opus", "opus", 0.03)):
        with av.open(BytesIO(answers[kind]["audio_data"])) as file:
            assert file.streams.audio[0].codec_context.name in (codec, f"lib{codec}")
            seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
        assert abs(seconds - len(samples) / RATE) <= tolerance


async def test_a_seed_is_the_same_sound_again_and_another_is_not(url: str) -> None:
    async with Peer(url) as peer:
        paths = [(await peer.answer({**LONG, "seed": seed}))["fish"] for seed in (1, 1, 2, None, None)]
    same, again, other, drawn, drawn_again = map(written, paths)
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)
    assert not np.array_equal(drawn, drawn_again)


async def test_ten_scripts_are_spoken_in_one_batch(url: str) -> None:
    async with Peer(url) as peer:
        texts = [{"text": text} for text in SCRIPTS.values()]
        answer = await peer.answer({"type": "fish", "data": texts, "max_new_tokens": 4, "audio_format": "none"})
    assert [item.get("message") for item in answer["data"]] == [None] * len(SCRIPTS)
    assert all(Path(item["fish"]).stat().st_size > 44 for item in answer["data"])


async def test_a_text_that_was_cut_short_says_so(url: str) -> None:
    async with Peer(url) as peer:
        assert (await peer.answer(SHORT))["cut"] is True


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ({"text": ""}, "INVALID_INPUT", "text"),
        ({}, "INVALID_INPUT", "text"),
        ({"text": "🙂🙃 🎉"}, "INVALID_INPUT", "text"),
        ({"text": "?!… —"}, "INVALID_INPUT", "text"),
        ({"text": "![](a.png)\n\n---\n<break time='1s'/>"}, "INVALID_INPUT", "text"),
        ({"text": "a", "markup": "html"}, "INVALID_INPUT", "markup"),
        ({"text": "long " * 20_000}, "TEXT_TOO_LONG", "text"),
        ({"text": "a", "reference_id": "../../etc/passwd"}, "VOICE_NOT_FOUND", "reference_id"),
        ({"text": "a", "reference_id": "voice_" + "0" * 24}, "VOICE_NOT_FOUND", "reference_id"),
        ({"text": "a", "references": ["../../../etc/passwd"]}, "FILE_FORBIDDEN", "references"),
        ({"reference_audio": "no.wav"}, "FILE_NOT_FOUND", "reference_audio"),
    ],
)
async def test_what_cannot_be_spoken_is_a_typed_error(url: str, message: dict[str, Any], code: str, field: str) -> None:
    async with Peer(url) as peer:
        answer = await peer.ask({"type": "fish", **message})
        if answer["status"] == "accepted":
            answer = await peer.final(answer["job_id"])
    assert (answer["status"], answer["error_code"], answer["details"]["field"]) == ("error", code, field)


# Streams, cut and killed.


async def test_a_stream_cut_in_the_middle_resumes_to_the_same_bytes(url: str) -> None:
    async with Peer(url) as peer:
        job_id = (await peer.ask(LONG))["job_id"]
        await heard(peer, job_id, 3)
        before, token = peer.of(job_id, "audio")[:3], peer.token
    async with Peer(url, token) as later:
        await later.ask({"type": "resume", "jobs": {job_id: before[-1]["seq"]}})
        final = await later.final(job_id)
        told = {event["seq"]: event for event in (*before, *later.of(job_id, "audio"))}  # what came live comes again
    assert sorted(told) == list(range(1, final["seq"]))
    np.testing.assert_array_equal(joined([told[seq] for seq in sorted(told)]), written(final["fish"]))


async def test_a_worker_killed_while_it_speaks_is_not_heard(url: str, server: Server) -> None:
    """Whoever listens has the same sound as if nothing had happened, each sample once, though one text now is alone."""
    message = {**LONG, "text": "One, two. " * 60, "seed": None}
    async with Peer(url) as peer:
        jobs = [(await peer.ask(message))["job_id"] for _ in range(2)]
        for job_id in jobs:
            await heard(peer, job_id, 5)
        killed = server.worker("fish")
        os.kill(killed, signal.SIGKILL)
        finals = [await peer.final(job_id) for job_id in jobs]
        events = [peer.of(job_id, "audio") for job_id in jobs]
    assert server.worker("fish") != killed
    for final, told in zip(finals, events, strict=True):
        np.testing.assert_array_equal(joined(told), written(final["fish"]))


async def test_a_cancelled_text_frees_its_place_and_leaves_no_file(url: str, server: Server) -> None:
    async with Peer(url) as peer:
        jobs = [(await peer.ask(ENDLESS))["job_id"] for _ in range(2)]
        for job_id in jobs:
            await heard(peer, job_id, 1)
        waiting = (await peer.ask(SHORT))["job_id"]
        assert (await peer.ask({"type": "cancel", "job_id": jobs[0]}))["cancelled"]
        assert (await peer.final(waiting))["status"] == "success"
        assert not [body for body in peer.of(jobs[1]) if "status" in body]
        await peer.ask({"type": "cancel", "job_id": jobs[1]})
        assert [(await peer.final(job_id))["status"] for job_id in jobs] == ["cancelled"] * 2
        after = await peer.answer(SHORT)
    spoken = {path for path in (server.folder / "fs_path").iterdir() if path.stat().st_size > 3000 * 2000}
    assert not spoken
    assert not list((server.folder / "data_dir" / "work").iterdir())
    assert after["status"] == "success"


# Voices.


async def test_a_saved_voice_is_its_owners_alone_until_it_is_deleted(url: str, server: Server) -> None:
    async with Peer(url, token_of(server, "ann")) as ann, Peer(url, token_of(server, "bob")) as bob:
        saved = await ann.answer({**SAVE, "name": "Jack", "description": "1961"})
        assert (saved["message"], saved.get("known")) == ("Reference processed successfully", None)
        voice = saved["reference_id"]
        again = await ann.answer(SAVE)
        assert (again["reference_id"], again["known"]) == (voice, True)
        [listed] = (await ann.ask({"type": "voices", "id": 3}))["voices"]
        assert (listed["reference_id"], listed["name"], listed["description"]) == (voice, "Jack", "1961")
        assert 9 < listed["duration"] < 11.1
        async with Peer(url, token_of(server, "ann")) as anns_other_script:
            assert (await anns_other_script.answer({**SHORT, "reference_id": voice}))["status"] == "success"
        assert (await bob.ask({"type": "voices"}))["voices"] == []
        assert (await bob.answer({**SHORT, "reference_id": voice}))["error_code"] == "VOICE_NOT_FOUND"
        assert (await bob.ask({"type": "delete_voice", "reference_id": voice}))["error_code"] == "VOICE_NOT_FOUND"
        job_id = (await ann.ask({**ENDLESS, "reference_id": voice}))["job_id"]
        await heard(ann, job_id, 1)
        assert (await ann.ask({"type": "delete_voice", "reference_id": voice}))["deleted"] is True
        told = len(ann.of(job_id, "audio"))
        await heard(ann, job_id, told + 3)  # what is being said goes on
        await ann.ask({"type": "cancel", "job_id": job_id})
        assert (await ann.answer({**SHORT, "reference_id": voice}))["error_code"] == "VOICE_NOT_FOUND"
        assert (await ann.ask({"type": "voices"}))["voices"] == []


async def test_the_second_sentence_in_a_voice_encodes_nothing_nor_does_one_after_a_restart(server: Server) -> None:
    async with Peer(server.url) as peer:
        voice = (await peer.answer(SAVE))["reference_id"]
        encoded = encodings(server)
        spoken = [(await peer.answer({**SHORT, "reference_id": voice}))["fish"] for _ in range(2)]
        spoken.append((await peer.answer(SHORT))["fish"])
        assert encodings(server) == encoded
    first, second, voiceless = map(written, spoken)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, voiceless)
    server.stop()
    server.start()
    async with Peer(server.url) as peer:
        again = await peer.answer({**SHORT, "reference_id": voice})
    assert encodings(server) == (0, 1)
    np.testing.assert_array_equal(written(again["fish"]), first)


async def test_a_recording_without_its_text_is_heard_by_whisper(url: str, server: Server) -> None:
    async with Peer(url) as peer:
        saved = await peer.answer({"type": "fish", "reference_audio": EXAMPLE.read_bytes()})
        assert saved["status"] == "success", saved
        assert len(saved["text"]) > 5
        encoded = encodings(server)
        for reference in ("jfk.flac", {"audio": "jfk.flac"}, {"audio": "jfk.flac", "text": saved["text"]}):
            answer = await peer.answer({**SHORT, "references": [reference]})
            assert answer["status"] == "success", answer
        assert encodings(server) == encoded  # a file's content is known again
        [item] = (await peer.answer({**SHORT, "data": [{"references": ["jfk.flac"]}]}))["data"]
        assert (item["error_code"], item["details"]["field"]) == ("INVALID_INPUT", "references")


def spoil(folder: Path, kind: str) -> str:
    """The name of a recording that is no voice's."""
    path = folder / f"{kind}.wav"
    source = np.asarray(np.random.RandomState(0).standard_normal(3 * 16000) / 10, dtype=np.float32)
    made = {
        "silence": np.zeros_like(source),
        "noise": source,
        "click": source[:3200],
        "ten_minutes": np.tile(source, 200),
    }
    if kind == "text":
        path.write_text("This is no recording.")
    else:
        write(path, made[kind], rate=16000)
    return path.name


@pytest.mark.parametrize("text", [None, "What is said."])
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("silence", "INVALID_INPUT"),
        ("noise", "INVALID_INPUT"),
        ("click", "INVALID_INPUT"),
        ("ten_minutes", "INVALID_INPUT"),
        ("text", "UNSUPPORTED_MEDIA"),
    ],
)
async def test_a_recording_that_is_no_voice_is_a_typed_error(
    url: str, server: Server, kind: str, code: str, text: str | None
) -> None:
    name = spoil(server.folder / "media", kind)
    async with Peer(url) as peer:
        saved = await peer.answer({"type": "fish", "reference_audio": name, "reference_text": text})
        spoken = await peer.answer({**SHORT, "references": [{"audio": name, "text": text}]})
    assert (saved["error_code"], saved["details"]["field"]) == (code, "reference_audio")
    assert (spoken["error_code"], spoken["details"]["field"]) == (code, "references")
