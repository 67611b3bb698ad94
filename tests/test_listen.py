"""`listen`: text while somebody speaks, the file's text in the end, and nothing heard twice or lost.

With real weights where OPTIVUS_TEST_MODELS names them, and with a tiny model that says one known sentence everywhere.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from contract.errors import UnsupportedMedia
from contract.messages import FileRef
from media.audio import SAMPLE_RATE, Audio, Gap, decode
from media.growing import BLOCK, Format, follow
from media.speech import MAX_PIECE, Piece
from media.utterances import Utterances
from tests.accuracy import word_error_rate, words
from tests.checkpoints import SENTENCE
from tests.conftest import contract_like_server
from tests.drive import Recorder, Stopped, drive, folders
from tests.peers import Peer
from tests.recordings import EXAMPLE, write
from tests.sounds import unspoken
from workers.base import MORE, TURN, Answer
from workers.whisper.agreement import Agreement, Tentative
from workers.whisper.listening import Listening
from workers.whisper.params import WhisperTask
from workers.whisper.reading import encoded_frames
from workers.whisper.units import Outcome, Pass, Segment, Unit
from workers.whisper.worker import Whisper, WhisperSettings

SPEECH = np.concatenate(list(decode(EXAMPLE)))
real_weights = pytest.mark.skipif(not os.environ.get("OPTIVUS_TEST_MODELS"), reason="OPTIVUS_TEST_MODELS is not set")


def silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


TALK = np.concatenate([silence(1), SPEECH[: int(7.7 * SAMPLE_RATE)], silence(1.5)])
TEXT = "And so my fellow Americans ask not what your country can do for you"


def pcm(audio: Audio) -> bytes:
    return (audio * 32767).astype("<i2").tobytes()


def pieces_of(sound: bytes, size: int) -> Iterator[bytes]:
    return (sound[start : start + size] for start in range(0, len(sound), size))


# What may be believed


def test_what_two_hypotheses_agree_on_stays() -> None:
    agreement = Agreement(spaced=True)
    assert agreement.add("I have") == Tentative("I have", 0)
    assert agreement.add("I have a cream") == Tentative("I have a cream", 6)
    assert agreement.add("I have a dream that") == Tentative("I have a dream that", 8)
    assert agreement.add("I have a dream, that one day") == Tentative("I have a dream, that one day", 20)
    assert agreement.add("Ivan a dream that one day this nation").text == "I have a dream, that one day this nation"
    assert agreement.add("I") == Tentative("I have a dream, that one day", 28)


def test_without_spaces_every_character_counts() -> None:
    agreement = Agreement(spaced=False)
    agreement.add("若干的地図在")
    assert agreement.add("若干的地図材の") == Tentative("若干的地図材の", 5)


# Utterances


def fed(sound: Audio, step: int, start: int = 0) -> list[Piece]:
    utterances = Utterances(start)
    parts = [sound[at : at + step] for at in range(0, len(sound), step)]
    return [piece for part in parts for piece in utterances.feed(part)] + utterances.feed(silence(0), last=True)


def places(pieces: list[Piece]) -> list[tuple[Any, ...]]:
    return [(piece.start, piece.speech, piece.end) for piece in pieces]


def test_utterances_do_not_depend_on_how_the_sound_comes() -> None:
    sound = np.concatenate([silence(2), SPEECH, silence(3), SPEECH[: 4 * SAMPLE_RATE], silence(1.5)])
    found = fed(sound, 1000)
    assert len(found) >= 2
    assert places(fed(sound, 12_345)) == places(found)
    assert all(np.array_equal(piece.audio, sound[piece.start : piece.end]) for piece in found)
    assert all(0 <= start < end <= len(piece.audio) for piece in found for start, end in piece.speech)
    spoken = np.concatenate([piece.audio[start:end] for piece in found for start, end in piece.speech])
    assert np.square(spoken).sum() > 0.95 * np.square(sound).sum()
    assert sum(np.square(piece.audio).sum() for piece in found) > 0.998 * np.square(sound).sum()


def test_an_utterance_without_a_pause_is_cut_at_30_s() -> None:
    words = SPEECH[int(5.4 * SAMPLE_RATE) : int(7.4 * SAMPLE_RATE)]
    found = fed(np.tile(words, 40), SAMPLE_RATE)
    assert all(len(piece.audio) <= MAX_PIECE for piece in found)
    assert all(left.end == right.start for left, right in itertools.pairwise(found))
    assert len(found) in (3, 4)


@pytest.mark.parametrize("seconds", [28.9, 29.1, 29.3, 29.5])
def test_what_is_cut_and_joined_again_says_once_where_somebody_speaks(seconds: float) -> None:
    words = np.tile(SPEECH[int(5.4 * SAMPLE_RATE) : int(7.4 * SAMPLE_RATE)], 15)
    sound = np.concatenate([silence(1), words[: int(seconds * SAMPLE_RATE)], silence(2)])
    for piece in fed(sound, len(sound)):
        edges = [edge for span in piece.speech for edge in span]
        assert edges == sorted(edges)


def test_a_short_utterance_may_go_on_after_a_longer_pause() -> None:
    short = SPEECH[int(0.3 * SAMPLE_RATE) : int(2.2 * SAMPLE_RATE)]
    long = np.tile(SPEECH[int(5.4 * SAMPLE_RATE) : int(7.4 * SAMPLE_RATE)], 5)
    assert len(fed(np.concatenate([short, silence(0.9), short]), 1000)) == 1
    assert len(fed(np.concatenate([short, silence(1.5), short]), 1000)) == 2
    assert len(fed(np.concatenate([long, silence(0.9), short]), 1000)) == 2


def test_minutes_of_silence_are_not_held() -> None:
    utterances = Utterances()
    for _ in range(5 * 60):
        assert not utterances.feed(silence(1))
    assert len(utterances._held) < 10 * SAMPLE_RATE
    assert utterances.position > 290 * SAMPLE_RATE


def test_what_is_there_already_is_cut_like_a_file() -> None:
    sound = np.concatenate([SPEECH, silence(1.5), SPEECH[: 4 * SAMPLE_RATE]])
    assert len(fed(sound, 1000)) == 2
    assert len(Utterances().feed(sound, last=True)) == 1


# A recording that grows


def browser(path: Path, codec: str, **options: str) -> bytes:
    """The example as a browser records it: a live stream, written in short clusters."""
    import av

    sound = np.repeat(SPEECH, 3)
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[np.newaxis], "fltp", "mono")
        frame.sample_rate = 48_000
        for part in av.AudioResampler(stream.codec_context.format.name, "mono", 48_000).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def webm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("browser") / "recording.webm"
    return browser(path, "libopus", live="1", cluster_time_limit="250")


def add(path: Path, sound: bytes) -> None:
    with path.open("ab") as file:
        file.write(sound)


def sound_in(read: Audio | Gap) -> Audio:
    assert not isinstance(read, Gap)
    return read


def grown(path: Path, kind: Format, sound: bytes, size: int, rate: int = SAMPLE_RATE) -> tuple[Audio, float]:
    """What is read while `sound` arrives, and how many seconds it was behind at most, by the share of the bytes."""
    path.touch()
    ended = threading.Event()
    reader = follow(path, kind, rate, ended.is_set)
    read, behind = [sound_in(reader.read())], 0.0
    for number, part in enumerate(pieces_of(sound, size), 1):
        add(path, part)
        read.append(sound_in(reader.read()))
        share = min(1.0, number * size / len(sound))
        behind = max(behind, (share * len(SPEECH) - sum(map(len, read))) / SAMPLE_RATE)
    ended.set()
    read += [sound_in(reader.read()), sound_in(reader.read())]
    reader.close()
    assert not len(read[-1])
    assert reader.position == sum(map(len, read))
    return np.concatenate(read), behind


def test_what_a_browser_records_is_heard_as_it_comes(tmp_path: Path, webm: bytes) -> None:
    whole = tmp_path / "whole.webm"
    whole.write_bytes(webm)
    threads = threading.active_count()
    heard, behind = grown(tmp_path / "growing", "webm", webm, 700)
    assert behind < 0.5
    assert np.array_equal(heard, np.concatenate(list(decode(whole))))
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [
        ("ogg", "libopus", {"page_duration": "250000"}),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "250000"}),
    ],
)
def test_other_browsers_are_heard_too(tmp_path: Path, kind: Format, codec: str, options: dict[str, str]) -> None:
    heard, behind = grown(tmp_path / "growing", kind, browser(tmp_path / f"a.{kind}", codec, **options), 700)
    assert behind < 0.6
    assert abs(len(heard) - len(SPEECH)) < 0.1 * SAMPLE_RATE


@pytest.mark.parametrize("kind", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_raw_samples_are_read_at_their_rate(tmp_path: Path, kind: Format, rate: int) -> None:
    """In pieces that end within a sample."""
    at = np.arange(len(SPEECH) * rate // SAMPLE_RATE) * SAMPLE_RATE / rate
    samples = np.interp(at, np.arange(len(SPEECH)), SPEECH).astype("<f4")
    sound = pcm(samples) if kind == "pcm_s16le" else samples.tobytes()
    heard, _ = grown(tmp_path / "growing", kind, sound, 9_999, rate)
    assert abs(len(heard) - len(SPEECH)) < 50
    assert np.corrcoef(heard, SPEECH[: len(heard)])[0, 1] > 0.99


def test_floats_that_cannot_be_heard_do_no_harm(tmp_path: Path) -> None:
    """No numbers, beyond full scale, less than a sample at the end; and a later attempt goes on at its place."""
    samples = np.array([np.nan, np.inf, -np.inf, 1e30, -2.0, 1e-40, 0.5, -0.5], "<f4")
    heard, _ = grown(tmp_path / "growing", "pcm_f32le", samples.tobytes() + b"\1\2\3", 3)
    assert heard == pytest.approx([0, 1, -1, 1, -1, 0, 0.5, -0.5], abs=1e-4)
    later = follow(tmp_path / "growing", "pcm_f32le", SAMPLE_RATE, lambda: True, 6)
    assert later.read() == pytest.approx([0.5, -0.5], abs=1e-4)
    later.close()


def test_a_recording_that_breaks_off_ends_where_it_does(tmp_path: Path, webm: bytes) -> None:
    heard, _ = grown(tmp_path / "growing", "webm", webm[: len(webm) // 2], 5_000)
    assert 4 < len(heard) / SAMPLE_RATE < 7


def test_what_is_no_recording_is_refused(tmp_path: Path, webm: bytes) -> None:
    header = webm[: webm.index(b"\x1f\x43\xb6\x75") + 12]  # and the beginning of the first cluster
    noise = np.random.default_rng(0).bytes(50_000)
    for number, sound in enumerate((noise, webm[len(webm) // 2 :], b"#EXTM3U\n" * 9, header)):
        with pytest.raises(UnsupportedMedia, match="not webm"):
            grown(tmp_path / str(number), "webm", sound, 9_000)
    assert not len(grown(tmp_path / "empty", "webm", b"", 1)[0])


def test_an_unread_recording_holds_no_memory_and_its_thread_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "long.webm", np.tile(np.repeat(SPEECH, 3), 10), "libopus")
    threads = threading.active_count()
    reader = follow(path, "webm", 48_000, lambda: False)
    assert BLOCK <= len(sound_in(reader.read())) < BLOCK + 10 * SAMPLE_RATE
    assert reader.position < 40 * SAMPLE_RATE
    reader.close()
    assert threading.active_count() == threads


# Listening


class Listener(Recorder):
    """Keeps every partial, in order."""

    def __init__(self, workdir: Path, checkpoint: Any = None, finished: Any = ()) -> None:
        super().__init__(workdir, checkpoint, finished)
        self.said: list[tuple[int, dict[str, Any]]] = []

    def partial(self, index: int, data: Any) -> None:
        super().partial(index, data)
        self.said.append((index, self.partials[index]))

    def again(self) -> Listener:
        before = super().again()
        return Listener(self.workdir, before.checkpoint_data, before.finished)


def answered(asked: Any, ctx: Recorder, forward: Callable[[list[Unit]], list[Any]], units: list[Any]) -> Any:
    """What a task is sent for what it asks; the units are added to the others."""
    if asked is TURN:
        return None
    several = asked if isinstance(asked, list) else [asked]
    awaited = [one if isinstance(one, Answer) else ctx.ask(one) for one in several]
    for answer in ctx.asked:
        units.append(answer.unit)
        [answer.result], answer.done = forward([answer.unit]), True
    ctx.asked.clear()
    results = [answer.result for answer in awaited]
    return results if isinstance(asked, list) else results[0]


def listen(
    worker: Whisper, path: Path, parts: Iterator[bytes], ctx: Recorder, stop_after: int | None = None, **params: Any
) -> tuple[Any, list[Any]]:
    """The result of a live task to which the next part comes whenever it waits for more, and its units with audio.

    Raises: Stopped after so many final texts, in the middle of the next utterance.
    """
    path.touch()
    task = WhisperTask.model_validate({"file": FileRef("path", str(path)), "format": "pcm_s16le", **params})
    run = worker.run(task, ctx)
    units: list[Any] = []
    try:
        asked = next(run)
        while True:
            if asked is MORE:
                if stop_after and sum(said["final"] for _, said in getattr(ctx, "said", ())) >= stop_after:
                    run.close()
                    raise Stopped
                part = next(parts, None)
                if part is None:
                    ctx.ended = True
                else:
                    add(path, part)
                asked = next(run)
                continue
            asked = run.send(answered(asked, ctx, worker.forward, units))
    except StopIteration as end:
        return orjson.loads(orjson.dumps(end.value)), units


@pytest.fixture(scope="module")
def worker(whisper_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    worker = Whisper(WhisperSettings(model=str(whisper_model), threads=1), folders(tmp_path_factory.mktemp("data")))
    worker.load()
    return worker


@pytest.fixture(scope="module")
def talk(worker: Whisper, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any], Listener]:
    """The example, half a second at a time: result, units, and what was said on the way."""
    ctx = Listener(tmp_path_factory.mktemp("talk"))
    result, units = listen(worker, ctx.workdir / "recording", pieces_of(pcm(TALK), SAMPLE_RATE), ctx)
    return result, units, ctx


def test_text_comes_while_somebody_speaks_and_is_final_in_the_end(talk: tuple[Any, list[Any], Listener]) -> None:
    result, _, ctx = talk
    by_index: dict[int, list[dict[str, Any]]] = {}
    for index, said in ctx.said:
        by_index.setdefault(index, []).append(said)
    assert len(by_index[0]) >= 3
    assert not by_index[0][0]["final"]
    assert by_index[0][0]["end"] <= 3.5  # the first word is said at 1.3 s
    for number, chunk in enumerate(result["chunks"]):
        last = by_index[number][-1]
        assert (last["final"], last["stable"]) == (True, len(chunk["text"]))
        assert chunk == {key: last[key] for key in ("start", "end", "text")}
    assert result["duration"] == len(TALK) / SAMPLE_RATE
    assert result["language"] == "en"


def test_the_stable_part_only_grows(talk: tuple[Any, list[Any], Listener]) -> None:
    _, _, ctx = talk
    tentative = [said for _, said in ctx.said if not said["final"]]
    assert max(said["stable"] for said in tentative) > 0
    for earlier, later in itertools.pairwise(tentative):
        if earlier["start"] == later["start"]:
            assert later["text"][: earlier["stable"]] == earlier["text"][: earlier["stable"]]
            assert (earlier["text"], earlier["stable"]) != (later["text"], later["stable"])


def test_passes_in_between_are_quick_and_at_most_one_a_second(
    talk: tuple[Any, list[Any], Listener], worker: Whisper
) -> None:
    _, units, _ = talk
    quick = [unit for unit in units if unit.quick]
    assert max(encoded_frames(unit) for unit in quick) <= 2000  # of 3000
    assert 5 <= len(quick) <= len(SPEECH) / SAMPLE_RATE + 4  # and one for each pause
    assert not any(unit.words for unit in quick)


@real_weights
def test_the_text_is_as_good_as_the_files(
    talk: tuple[Any, list[Any], Listener], worker: Whisper, tmp_path: Path
) -> None:
    whole = write(tmp_path / "talk.wav", TALK, rate=SAMPLE_RATE)
    file, _ = drive(worker, {"file": whole}, Recorder(tmp_path))
    assert word_error_rate(TEXT, talk[0]["text"]) <= word_error_rate(TEXT, file["text"]) + 0.02


@real_weights
def test_speech_after_music_and_softly_begun_is_heard_from_its_first_word(worker: Whisper, tmp_path: Path) -> None:
    beginnings = {
        "And so my fellow Americans ask not": np.concatenate([unspoken("plucked", 20, -18), SPEECH]),
        "Ask not what your country can do for you": SPEECH[3 * SAMPLE_RATE :],
    }
    for number, (beginning, sound) in enumerate(beginnings.items()):
        parts = pieces_of(pcm(sound), 2 * SAMPLE_RATE)
        result, _ = listen(worker, tmp_path / str(number), parts, Listener(tmp_path), language="en")
        first = words(beginning)
        assert words(result["text"])[: len(first)] == first


@real_weights
@pytest.mark.parametrize("kind", ["plucked", "knocks", "sweep"])
def test_sounds_like_speech_have_no_text(worker: Whisper, tmp_path: Path, kind: str) -> None:
    """Neither a final one nor one for the moment, though the voice detector takes some for speech."""
    ctx = Listener(tmp_path)
    sound = pcm(unspoken(kind, 20, -16))
    result, _ = listen(worker, tmp_path / "recording", pieces_of(sound, SAMPLE_RATE), ctx)
    assert (result["text"], [said["text"] for _, said in ctx.said if said["text"]]) == ("", [])


def test_a_recording_that_is_there_already_is_caught_up_without_quick_passes(worker: Whisper, tmp_path: Path) -> None:
    ctx = Listener(tmp_path)
    sound = np.concatenate([silence(24), TALK, silence(5)])  # which is read in parts of 30 s
    _, units = listen(worker, tmp_path / "recording", iter([pcm(sound)]), ctx)
    assert not any(unit.quick for unit in units)
    assert all(said["final"] for _, said in ctx.said)


def test_another_attempt_goes_on_after_the_last_final_text(worker: Whisper, tmp_path: Path) -> None:
    path, ctx = tmp_path / "recording", Listener(tmp_path)
    sound = pcm(np.concatenate([SPEECH[: 3 * SAMPLE_RATE], silence(2), SPEECH[8 * SAMPLE_RATE :], silence(2)]))
    parts = pieces_of(sound, 2 * SAMPLE_RATE)
    with pytest.raises(Stopped):
        listen(worker, path, parts, ctx, stop_after=1, language="en")
    later = ctx.again()
    told = len(later.finished)
    reader = Listening(later, path, "pcm_s16le", SAMPLE_RATE, Unit(None), ear=worker._reader)._sound
    assert reader.position == ctx.checkpoints[-1]["window"] > 2 * SAMPLE_RATE
    reader.close()
    result, units = listen(worker, path, parts, later, language="en")
    assert told == 1
    assert min(index for index, _ in later.said) == 1
    assert result["chunks"][0] == {key: ctx.partials[0][key] for key in ("start", "end", "text")}
    assert all(chunk["start"] > 4 for chunk in result["chunks"][1:])
    assert sum(not unit.quick for unit in units) <= len(result["chunks"])
    assert result["duration"] == len(sound) / 2 / SAMPLE_RATE


def test_nobody_speaking_is_no_text_and_next_to_no_work(worker: Whisper, tmp_path: Path) -> None:
    ctx = Listener(tmp_path)
    noise = np.random.default_rng(0).normal(0, 1e-3, 90 * SAMPLE_RATE).astype(np.float32)
    result, units = listen(worker, tmp_path / "recording", pieces_of(pcm(noise), SAMPLE_RATE * 2), ctx)
    assert (result["text"], result["chunks"], result["duration"], units) == ("", [], 90.0, [])
    assert len(ctx.checkpoints) == 2
    assert ctx.checkpoints[-1]["window"] > 59 * SAMPLE_RATE


def test_the_clients_language_and_words_are_kept(worker: Whisper, tmp_path: Path) -> None:
    sound = iter([pcm(SPEECH[: 3 * SAMPLE_RATE])])
    result, _ = listen(worker, tmp_path / "recording", sound, Listener(tmp_path), language="en", word_timestamps=True)
    assert result["language"] == "en"
    assert "".join(word["word"] for word in result["chunks"][0]["words"]).strip() == result["chunks"][0]["text"]


def heard_as(path: Path, ctx: Listener, quick: str, final: str) -> Any:
    """The result when Whisper writes this of every utterance, in quick passes and in final ones."""

    class Written:
        def prepared(self, unit: Unit) -> Unit:
            return unit

        def outcome(self, one: Pass) -> Outcome:
            text = quick if one.unit.quick else final
            return Outcome((Segment(0.5, 1.0, text),) if text else (), language="en")

    path.touch()
    run = Listening(ctx, path, "pcm_s16le", SAMPLE_RATE, Unit(None, language="en"), ear=Written()).run()
    parts = pieces_of(pcm(TALK), SAMPLE_RATE)
    try:
        asked = next(run)
        while True:
            if asked is MORE:
                part = next(parts, None)
                if part:
                    add(path, part)
                else:
                    ctx.ended = True
                asked = next(run)
            else:
                asked = run.send(answered(asked, ctx, lambda units: [Pass(unit) for unit in units], []))
    except StopIteration as end:
        return end.value


def test_what_has_not_changed_is_not_told_again(tmp_path: Path) -> None:
    ctx = Listener(tmp_path)
    assert heard_as(tmp_path / "recording", ctx, " Ask not", " Ask not.")["text"] == "Ask not."
    assert [(index, said["text"], said["stable"], said["final"]) for index, said in ctx.said] == [
        (0, "Ask not", 0, False),
        (0, "Ask not", 7, False),
        (0, "Ask not.", 8, True),
    ]


def test_a_tentative_text_that_was_no_speech_is_taken_back(tmp_path: Path) -> None:
    ctx = Listener(tmp_path)
    assert heard_as(tmp_path / "recording", ctx, " Thank you", "")["chunks"] == []
    assert ctx.said[0][1]["text"] == "Thank you"
    assert (ctx.said[-1][0], ctx.said[-1][1]["text"]) == (0, "")
    assert ctx.checkpoints[-1]["chunks"] == 0


# The whole way


async def begin(peer: Peer, **params: Any) -> str:
    accepted = await peer.ask({"type": "listen", "id": "mic", **params})
    assert accepted["status"] == "accepted"
    return str(accepted["job_id"])


async def send(peer: Peer, job_id: str, sound: bytes = b"", **more: Any) -> Any:
    return await peer.ask({"job_id": job_id, "audio": sound, **more}, event="audio")


async def test_a_listener_outlives_its_worker_its_connection_and_its_server(
    tmp_path: Path, whisper_model: Path
) -> None:
    sound = pcm(np.concatenate([SPEECH[: 3 * SAMPLE_RATE], silence(2), SPEECH[8 * SAMPLE_RATE :], silence(1.5)]))
    first, second = 5 * 2 * SAMPLE_RATE, 7 * 2 * SAMPLE_RATE
    server = contract_like_server(tmp_path, AI_WHISPER_MODEL=str(whisper_model))
    with server:
        async with Peer(server.url) as peer:
            job_id, token = await begin(peer, language="en"), peer.token
            await send(peer, job_id, sound[:first])
            chunk = await peer.wait(lambda event, body: event == "partial" and body["data"]["final"])
            os.kill(server.worker("whisper"), signal.SIGKILL)
            await send(peer, job_id, sound[first:second], offset=first)
            await peer.wait(lambda event, body: event == "partial" and body["index"] == 1)
        assert server.stop() == 0
        assert not any("drain_timed_out" in line for line in server.log)
        server.start()
        async with Peer(server.url, token) as later:
            await later.ask({"type": "resume", "jobs": {job_id: 0}})
            await send(later, job_id, sound[second:], offset=second, end=True)
            answer = (await later.final(job_id))["transcribe_audio"]
    texts = [one["text"] for one in answer["chunks"]]
    assert texts[0] == chunk["data"]["text"]
    assert len(texts) >= 2
    assert answer["duration"] == len(sound) / 2 / SAMPLE_RATE


async def test_samples_as_floats_become_text(url: str) -> None:
    async with Peer(url) as peer:
        job_id = await begin(peer, format="pcm_f32le", language="en")
        for part in pieces_of(TALK.astype("<f4").tobytes(), 50_001):
            await send(peer, job_id, part)
        await send(peer, job_id, end=True)
        answer = (await peer.final(job_id))["transcribe_audio"]
    assert "country" in answer["text"] or SENTENCE in answer["text"]
    assert answer["duration"] == len(TALK) / SAMPLE_RATE


async def test_a_browsers_recording_becomes_text(url: str, webm: bytes) -> None:
    async with Peer(url) as peer:
        job_id = await begin(peer, format="webm", language="en")
        for part in pieces_of(webm, 30_000):
            await send(peer, job_id, part)
        await send(peer, job_id, end=True)
        answer = (await peer.final(job_id))["transcribe_audio"]
        assert "country" in answer["text"] or SENTENCE in answer["text"]
        refused = await begin(peer, format="webm")
        await send(peer, refused, b"this is no recording", end=True)
        assert (await peer.final(refused))["error_code"] == "UNSUPPORTED_MEDIA"


async def test_a_client_cannot_make_another_task_a_live_one(url: str, media: Path) -> None:
    (media / "talk.wav").write_bytes(write(media / "talk.wav", SPEECH[: 2 * SAMPLE_RATE], rate=16_000).read_bytes())
    async with Peer(url) as peer:
        answer = await peer.answer({"type": "whisp", "file": str(media / "talk.wav"), "format": "pcm_s16le"})
        assert answer["warnings"] == ["unknown key 'format' was ignored"]
        assert answer["transcribe_audio"]["duration"] == 2.0
