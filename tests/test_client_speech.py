"""Speech through the client library, against a real server whose voice is played (client_workers)."""

from __future__ import annotations

import io
import os
import uuid
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from client import AsyncClient, AsyncJob, Audio, Cancelled, Client, Final, OptivusError
from tests.proxy import Proxy
from tests.scripts import scripted_server
from tests.servers import Server

RATE = 44100
LETTER_SAMPLES = 2205
WORDS = "ask not what your country can do for you"
LONG = " ".join(["sesquipedalian"] * 80)
"""3.5 MB of sound, more than a message may hold."""


def sound_of(text: str, first: int = 0) -> bytes:
    """What the played voice says, as pcm_s16le; see `tests/client_workers/speaker.py`."""
    size = sum(min(RATE // 2, LETTER_SAMPLES * len(word)) for word in text.split())
    return np.arange(first, first + size).astype("<i2").tobytes()


class Gate:
    """A fifo that lets the played voice go on, piece by piece."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / uuid.uuid4().hex

    def text(self, words: str) -> str:
        return f"{self.path} {words}"

    def open(self, pieces: int) -> None:
        os.write(self._fifo, b"." * pieces)

    def __enter__(self) -> Self:
        os.mkfifo(self.path)
        self._fifo = os.open(self.path, os.O_RDWR)  # for reading too: then it opens at once
        return self

    def __exit__(self, *exc: object) -> None:
        self.path.unlink()
        self.open(99)  # who still waits there goes on
        os.close(self._fifo)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def frames(wav: bytes) -> tuple[int, bytes]:
    """A wav file's sample rate and samples."""
    with wave.open(io.BytesIO(wav)) as file:
        return file.getframerate(), file.readframes(file.getnframes())


async def test_speech_comes_as_a_file_in_bytes(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        answer = await client.speak(WORDS)
        assert frames(answer["audio_data"]) == (answer["sample_rate"], sound_of(WORDS)) == (RATE, sound_of(WORDS))
        assert answer["duration"] == len(sound_of(WORDS)) / 2 / RATE
        assert Path(answer["fish"]).read_bytes() == answer["audio_data"]
        assert (await client.speak(WORDS, audio_format="pcm", seed=5))["audio_data"] == sound_of(WORDS, 5)


async def test_sound_too_large_for_a_message_is_bytes_too(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        assert (await client.speak(LONG, audio_format="pcm"))["audio_data"] == sound_of(LONG)
        texts = [LONG, WORDS]
        batch = await client.submit("fish", data=[{"text": text, "audio_format": "pcm"} for text in texts])
        items = (await batch.result())["data"]
        assert [item["audio_data"] for item in items] == [sound_of(text) for text in texts]


async def test_pieces_joined_are_the_speech(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.stream_speech(WORDS, audio_format="pcm")
        pieces = [piece async for piece in job.audio()]
        assert len(pieces) == len(WORDS.split())
        assert b"".join(pieces) == (await job.result())["audio_data"] == sound_of(WORDS)
        assert job.sample_rate == RATE


async def test_speech_is_heard_while_it_is_made_and_a_cut_leaves_no_hole(server: Server, gate: Gate) -> None:
    async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
        job = await client.stream_speech(gate.text(WORDS))
        heard = b""
        gate.open(2)
        async for piece in job.audio():
            heard += piece
            if heard == sound_of("ask not"):
                assert job.final is None
                proxy.cut()
                gate.open(3)
            elif heard == sound_of("ask not what your"):
                proxy.lose(b'"index":4', cut=True)
                gate.open(9)
        assert heard == sound_of(WORDS)


async def test_speech_that_was_stopped_is_not_taken_for_whole(server: Server, gate: Gate) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.stream_speech(gate.text(WORDS))
        gate.open(1)
        with pytest.raises(Cancelled):
            async for _ in job.audio():
                await job.cancel()


async def test_voice_is_saved_used_listed_and_deleted(server: Server, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"of the played voice only the size counts")
    async with AsyncClient(server.url) as client:
        voice = await client.save_voice(recording, "Hello, it is me.", name="me", description="on a good day")
        [row] = await client.voices()
        assert (row.reference_id, row.name, row.description, row.duration) == (voice, "me", "on a good day", 1.0)
        spoken = await client.speak(WORDS, voice=voice, audio_format="pcm")
        assert spoken["audio_data"] == sound_of(WORDS, len("Hello, it is me."))
    async with AsyncClient(server.url) as later:
        await later.delete_voice(voice)
        assert await later.voices() == []
        for gone in (later.delete_voice(voice), later.speak(WORDS, voice=voice)):
            with pytest.raises(OptivusError) as refused:
                await gone
            assert refused.value.code == "VOICE_NOT_FOUND"


async def test_speech_in_the_voice_of_a_recording(server: Server, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"1234567")
    async with AsyncClient(server.url) as client:
        spoken = await client.speak(WORDS, reference=recording, reference_text="Me.", audio_format="pcm")
        assert spoken["audio_data"] == sound_of(WORDS, 7 + 3)
        with pytest.raises(FileNotFoundError):
            await client.speak(WORDS, reference=tmp_path / "absent.wav")


async def test_path_of_neither_machine_is_told_so(server: Server, tmp_path: Path) -> None:
    async with AsyncClient(server.url) as client:
        for file, code in (("/absent/me.wav", "FILE_FORBIDDEN"), ("me.wav", "FILE_NOT_FOUND")):
            for work in (client.save_voice(file), client.speak(WORDS, reference=file), client.transcribe(file)):
                with pytest.raises(OptivusError, match=f"On this machine there is no file '{file}'") as refused:
                    await work
                assert refused.value.code == code


async def test_what_json_cannot_hold_is_refused_by_its_name(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        for work, name in (
            (client.speak("half \ud800 of a letter"), "text"),
            (client.speak(WORDS, temperature=float("nan")), "temperature"),
            (client.submit("fish", data=[{"text": WORDS, "top_p": float("inf")}]), "data"),
            (client.delete_voice(os.fsdecode(b"\xff")), "reference_id"),
        ):
            with pytest.raises(OptivusError, match=f"'{name}'") as refused:
                await work
            assert (refused.value.code, refused.value.details) == ("INVALID_INPUT", {"field": name})


def test_sync_client_speaks_with_the_same_names(server: Server, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"1")
    with Client(server.url) as client:
        assert frames(client.speak(WORDS)["audio_data"]) == (RATE, sound_of(WORDS))
        job = client.stream_speech(WORDS)
        assert b"".join(job.audio()) == sound_of(WORDS)
        assert job.sample_rate == RATE
        voice = client.save_voice(recording, "Me again.")
        assert [row.reference_id for row in client.voices()] == [voice]
        client.delete_voice(voice)


async def no(*_: object) -> bool:
    return False


def piece(seq: int) -> Audio:
    """The piece that is told with this `seq`: one sample, its own number."""
    return Audio(seq, seq - 1, seq - 1, seq, RATE, bytes([seq, 0]))


def told(pieces: int) -> AsyncJob:
    """A job of which so many pieces have arrived, and the end."""
    job = AsyncJob("job_1", 0, no, no)
    for seq in range(1, pieces + 1):
        job.add(piece(seq))
    job.add(Final(pieces + 1, "success", {}))
    return job


async def test_sound_is_kept_until_all_have_heard_it_and_no_longer() -> None:
    job = told(3)
    early, slow = job.audio(), job.events()
    assert [sound async for sound in early] == [b"\1\0", b"\2\0", b"\3\0"]
    assert [event async for event in slow] == [piece(1), piece(2), piece(3), job.final]
    assert [event async for event in job.events()] == [job.final]


async def test_one_who_left_holds_no_sound_back() -> None:
    job = told(3)
    left, stays = job.events(), job.audio()
    assert await anext(left) == piece(1)
    await left.aclose()
    assert [sound async for sound in stays] == [b"\1\0", b"\2\0", b"\3\0"]
    assert [event async for event in job.events()] == [job.final]


async def test_sound_broken_off_goes_on_where_it_was() -> None:
    job = told(3)
    async for sound in job.audio():
        assert sound == b"\1\0"
        break
    assert [sound async for sound in job.audio()] == [b"\2\0", b"\3\0"]


async def test_sound_that_is_told_again_is_heard_once() -> None:
    job = AsyncJob("job_1", 0, no, no)
    for seq in (1, 2):
        job.add(piece(seq))
    job.replay()
    job.add(Audio(1, 0, 0, 3, RATE, b"\1\0\2\0\3\0"))
    job.add(Final(2, "success", {}))
    assert [sound async for sound in job.audio()] == [b"\1\0", b"\2\0", b"\3\0"]
