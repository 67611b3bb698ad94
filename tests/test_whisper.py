"""`whisp`'s worker: as exact as the model itself, in time, and never twice the same work.

With real weights where OPTIVUS_TEST_MODELS names them, and with a tiny model that says one known sentence everywhere.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from contract.errors import InvalidInput, ModelUnavailable, NoAudio, OutOfMemory, ServiceError
from contract.messages import FileRef
from media.audio import SAMPLE_RATE, Audio, decode
from tests.accuracy import character_error_rate, start_errors, word_error_rate, words
from tests.checkpoints import SENTENCE, make_ctranslate2
from tests.drive import Recorder, Stopped, drive, folders
from tests.recordings import EXAMPLE, write
from tests.sounds import UNSPOKEN, unspoken
from workers.whisper.device import pieces_that_fit
from workers.whisper.encoded import joined
from workers.whisper.params import WhisperParams
from workers.whisper.units import Evidence, Try, Unit
from workers.whisper.worker import Whisper, WhisperSettings

MODELS = Path(os.environ.get("OPTIVUS_TEST_MODELS", "nowhere"))
SPEECH = MODELS.parent / "media" / "speech"
CLIPS = json.loads((SPEECH / "transcripts.json").read_text()) if (SPEECH / "transcripts.json").is_file() else []
MARGIN = 0.03
"""Errors for each word."""
real_weights = pytest.mark.skipif(not (MODELS / "whisper-base").is_dir(), reason="OPTIVUS_TEST_MODELS has no Whisper")


def loaded(model: Path, data: Path, **settings: Any) -> Whisper:
    worker = Whisper(WhisperSettings(model=str(model), **{"threads": 1, **settings}), folders(data))
    worker.load()
    return worker


def as_on_a_gpu(worker: Whisper) -> Whisper:
    """It computes on the CPU all the same; what is batched and when is as on a GPU."""
    worker._pace = None
    worker.batch = 8
    for decoder in (worker._decoder, worker._quick):
        decoder._alone, decoder._resident = False, True
    return worker


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    folder = tmp_path_factory.mktemp("models")
    return loaded(make_ctranslate2(folder / "tiny"), folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    return loaded(MODELS / "whisper-base", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """134 s: the example nine times, with pauses between."""
    speech = np.concatenate(list(decode(EXAMPLE)))
    pauses = [np.zeros(int(seconds * SAMPLE_RATE), np.float32) for seconds in (4, 0.5, 9, 1, 3, 5, 0.5, 8, 4)]
    samples = np.concatenate([part for pause in pauses for part in (speech, pause)])
    return write(tmp_path_factory.mktemp("media") / "meeting.flac", samples, "flac", SAMPLE_RATE)


def written(units: list[Unit]) -> list[Unit]:
    """The passes that wrote text."""
    return [unit for unit in units if not unit.encode_only]


def check_times(result: dict[str, Any]) -> None:
    """0 ≤ start ≤ end ≤ duration, starts non-decreasing, all plain floats; words within their chunk."""
    last = 0.0
    for chunk in result["chunks"]:
        assert type(chunk["start"]) is float
        assert last <= chunk["start"] <= chunk["end"] <= result["duration"]
        last = within = chunk["start"]
        for word in chunk.get("words", ()):
            assert within <= word["start"] <= word["end"] <= chunk["end"]
            assert 0 <= word["probability"] <= 1
            within = word["start"]


# Accuracy, with real weights


@pytest.fixture(scope="module")
def heard(base: Whisper, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The worker's result for each clip, with words."""
    folder = tmp_path_factory.mktemp("work")
    params = [{"file": SPEECH / clip["file"], "word_timestamps": True} for clip in CLIPS]
    return {param["file"].name: drive(base, param, Recorder(folder))[0] for param in params}


@real_weights
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip["file"])
def test_the_language_is_found_and_times_are_in_order(heard: dict[str, dict[str, Any]], clip: dict[str, Any]) -> None:
    result = heard[clip["file"]]
    assert result["language"] == clip["language"]
    check_times(result)


def surrounded(clip: dict[str, Any], chance: random.Random) -> Audio:
    """A clip between silences of 0.3 to 3 s, maybe in soft noise, so that the sound is cut at another place."""
    silences = [np.zeros(int(chance.uniform(0.3, 3) * SAMPLE_RATE), np.float32) for _ in range(2)]
    audio = np.concatenate([silences[0], *decode(SPEECH / clip["file"]), silences[1]])
    noise = np.random.default_rng(chance.randrange(1000)).standard_normal(len(audio)).astype(np.float32)
    quiet: Audio = audio + np.float32(chance.choice([0, 1e-4, 1e-3])) * noise
    return quiet


@real_weights
def test_transcripts_are_no_worse_than_the_models_own(base: Whisper, tmp_path: Path) -> None:
    """Errors in words, in Japanese characters, of ten recordings: in the mean at most MARGIN more than the library's.

    One recording alone may go either way on another processor: its kernels round differently, and so does another cut.
    """
    more = []
    for number in range(10):
        clip = CLIPS[number % len(CLIPS)]
        rate = character_error_rate if clip["language"] == "ja" else word_error_rate
        audio = surrounded(clip, random.Random(number))
        segments, _ = base._model.transcribe(audio, language=clip["language"])
        file = write(tmp_path / "surrounded.wav", audio, rate=SAMPLE_RATE)
        result, _ = drive(base, {"file": file, "language": clip["language"]}, Recorder(tmp_path))
        directly = rate(clip["text"], "".join(segment.text for segment in segments))
        more.append(rate(clip["text"], result["text"]) - directly)
    assert sum(more) / len(more) <= MARGIN, more


@real_weights
def test_on_a_gpu_transcripts_are_as_good(tmp_path: Path) -> None:
    """Several clips in one recording, language unknown: pieces of it are encoded, written and aligned together."""
    worker = as_on_a_gpu(loaded(MODELS / "whisper-tiny", tmp_path))
    clips = [clip for clip in CLIPS if clip["language"] == "en"]
    pause = np.zeros(3 * SAMPLE_RATE, np.float32)
    sound = [part for clip in clips * 3 for part in (np.concatenate(list(decode(SPEECH / clip["file"]))), pause)]
    file = write(tmp_path / "clips.wav", np.concatenate(sound), rate=SAMPLE_RATE)
    result, _ = drive(worker, {"file": file, "word_timestamps": True}, Recorder(tmp_path))
    text = " ".join(clip["text"] for clip in clips * 3)
    segments, _ = worker._model.transcribe(file, language="en", vad_filter=True)
    directly = word_error_rate(text, "".join(segment.text for segment in segments))
    assert result["language"] == "en"
    assert word_error_rate(text, result["text"]) <= directly + MARGIN
    check_times(result)


@real_weights
def test_words_begin_when_they_are_said(heard: dict[str, dict[str, Any]]) -> None:
    errors: list[float] = []
    for clip in (clip for clip in CLIPS if "words" in clip and clip["language"] != "ja"):
        words = [word for chunk in heard[clip["file"]]["chunks"] for word in chunk["words"]]
        errors += start_errors(clip["words"], words)
    assert len(errors) > 40
    assert sum(error <= 0.3 for error in errors) / len(errors) >= 0.85


@real_weights
def test_translation_is_english(base: Whisper, tmp_path: Path) -> None:
    result, _ = drive(base, {"file": SPEECH / "test_es.wav", "task": "translate"}, Recorder(tmp_path))
    assert "sand" in result["text"].lower()
    assert result["language"] == "es"


@real_weights
def test_long_recording_keeps_order_and_places(tmp_path: Path) -> None:
    """Two clips four times in turn, with pauses: 85 s, first whole and then with its process dead in the middle.

    Every line lies within its clip, and nothing is said twice.
    """
    clips = [np.concatenate(list(decode(SPEECH / clip["file"]))) for clip in CLIPS[:2]] * 4
    pauses = [4, 1.1, 0.9, 2.5, 5, 1.5, 2, 1]
    silences = [np.zeros(int(seconds * SAMPLE_RATE), np.float32) for seconds in pauses]
    parts = [part for pair in zip(clips, silences, strict=True) for part in pair]
    recording = write(tmp_path / "long.flac", np.concatenate(parts), "flac", SAMPLE_RATE)
    worker = loaded(MODELS / "whisper-tiny", tmp_path, beam_size=1)
    whole, units = drive(worker, {"file": recording}, Recorder(tmp_path))
    check_times(whole)
    assert word_error_rate(" ".join([clip["text"] for clip in CLIPS[:2]] * 4), whole["text"]) < 0.05
    edges = np.cumsum([0, *(len(part) / SAMPLE_RATE for part in parts)])
    spans = list(zip(edges[:-1:2], edges[1::2], strict=True))
    for begin, end in spans:
        assert any(begin - 0.3 <= chunk["start"] and chunk["end"] <= end + 0.3 for chunk in whole["chunks"])
    for chunk in whole["chunks"]:
        assert any(begin - 0.3 <= chunk["start"] and chunk["end"] <= end + 0.3 for begin, end in spans), chunk
    first = Recorder(tmp_path)
    with pytest.raises(Stopped):
        drive(worker, {"file": recording}, first, steps=4)
    again, rest = drive(worker, {"file": recording}, first.again())
    assert again == whole
    assert 0 < len(rest) < len(units)


@real_weights
def test_chunks_of_a_multilingual_recording_say_their_language(tmp_path: Path) -> None:
    clips = [clip for clip in CLIPS if clip["language"] in ("en", "es", "pt")]
    pause = np.zeros(int(1.2 * SAMPLE_RATE), np.float32)
    parts = [part for clip in clips for part in (np.concatenate(list(decode(SPEECH / clip["file"]))), pause)]
    recording = write(tmp_path / "many.flac", np.concatenate(parts), "flac", SAMPLE_RATE)
    worker = loaded(MODELS / "whisper-tiny", tmp_path, beam_size=1)
    result, _ = drive(worker, {"file": recording, "multilingual": True}, Recorder(tmp_path))
    spoken = [chunk["language"] for chunk in result["chunks"]]
    assert list(dict.fromkeys(spoken)) == ["en", "es", "pt"]
    assert result["language"] == "en"
    alone, _ = drive(worker, {"file": recording}, Recorder(tmp_path))
    assert not any("language" in chunk for chunk in alone["chunks"])


@real_weights
@pytest.mark.parametrize("model", ["whisper-tiny", "whisper-base"])
def test_sounds_without_speech_have_no_text(tmp_path: Path, model: str) -> None:
    """Also where the voice detector doubts, and Whisper alone would write a line."""
    worker = loaded(MODELS / model, tmp_path)
    doubted = 0
    for kind in UNSPOKEN:
        recording = write(tmp_path / "sound.wav", unspoken(kind, 20, -16), rate=SAMPLE_RATE)
        result, units = drive(worker, {"file": recording}, Recorder(tmp_path))
        doubted += len(units)
        assert (kind, result["text"], result["language"]) == (kind, "", None)
    assert doubted > 3


@real_weights
@pytest.mark.parametrize("model", ["whisper-tiny", "whisper-base"])
def test_speech_after_music_and_softly_begun_is_heard_from_its_first_word(tmp_path: Path, model: str) -> None:
    worker = loaded(MODELS / model, tmp_path)
    speech = np.concatenate(list(decode(EXAMPLE)))
    beginnings = {
        "And so my fellow Americans, ask not": np.concatenate([unspoken("plucked", 30, -18), speech]),
        "Ask not what your country can do for you": speech[3 * SAMPLE_RATE :],
    }
    for beginning, sound in beginnings.items():
        recording = write(tmp_path / "sound.wav", sound, rate=SAMPLE_RATE)
        result, _ = drive(worker, {"file": recording, "language": "en"}, Recorder(tmp_path))
        first = words(beginning)
        assert words(result["text"])[: len(first)] == first


@real_weights
def test_music_around_speech_adds_no_words(tmp_path: Path) -> None:
    """Whisper hears some of it, in the same piece; what it missed there is asked about, not written."""
    worker = loaded(MODELS / "whisper-tiny", tmp_path)
    speech = np.concatenate(list(decode(EXAMPLE)))
    sound = np.concatenate([unspoken("plucked", 5, -18), speech, unspoken("plucked", 9, -18, seed=1)])
    recording = write(tmp_path / "sound.wav", sound, rate=SAMPLE_RATE)
    result, _ = drive(worker, {"file": recording, "language": "en"}, Recorder(tmp_path))
    assert word_error_rate(CLIPS[0]["text"], result["text"]) == 0


# The rest needs no real weights


def test_tiny_model_says_its_sentence_with_times(tiny: Whisper, tmp_path: Path) -> None:
    ctx = Recorder(tmp_path)
    result, _ = drive(tiny, {"file": EXAMPLE, "word_timestamps": True}, ctx)
    (chunk,) = result["chunks"]
    words = "".join(word["word"] for word in chunk.pop("words"))
    assert (result["text"], result["language"], result["duration"]) == (SENTENCE, "en", 11.0)
    assert (chunk["text"], words, chunk["end"]) == (SENTENCE, SENTENCE, pytest.approx(1.0, abs=0.05))
    assert "words" in ctx.partials[0]


def test_each_chunk_is_a_partial_and_the_checkpoint_is_small(tiny: Whisper, meeting: Path, tmp_path: Path) -> None:
    ctx = Recorder(tmp_path)
    result, units = drive(tiny, {"file": meeting}, ctx)
    assert [ctx.partials[index] for index in sorted(ctx.partials)] == result["chunks"]
    assert len(result["chunks"]) == len(written(units)) == len(ctx.checkpoints) > 4
    assert max(len(json.dumps(checkpoint)) for checkpoint in ctx.checkpoints) < 200
    assert ctx.fractions == sorted(ctx.fractions, key=lambda fraction: fraction or 0)
    assert result["text"] == " ".join([SENTENCE] * len(result["chunks"]))
    check_times(result)


@pytest.fixture(scope="module")
def tiny_on_a_gpu(tiny: Whisper) -> Whisper:
    return as_on_a_gpu(loaded(Path(tiny.settings.model), tiny.folders.data))


@pytest.mark.parametrize("way", ["tiny", "tiny_on_a_gpu"])
@pytest.mark.parametrize("vad", [True, False])
def test_retry_goes_on_from_every_checkpoint(
    request: pytest.FixtureRequest, way: str, meeting: Path, tmp_path: Path, vad: bool
) -> None:
    """Also when its partials had gone further than its checkpoint; no finished piece is heard again."""
    tiny = request.getfixturevalue(way)
    params = {"file": meeting, "vad": vad}
    ctx = Recorder(tmp_path)
    whole, units = drive(tiny, params, ctx)
    later = {"start": 0.0, "end": 1.0, "text": "sent, then died before the checkpoint"}
    for done, checkpoint in enumerate(ctx.checkpoints, 1):
        sent = [ctx.partials[index] for index in range(checkpoint["chunks"])]
        again, rest = drive(tiny, params, Recorder(tmp_path, checkpoint, [*sent, later]))
        assert again == whole
        assert len(written(rest)) == len(written(units)) - done


def test_silence_has_no_text(tiny: Whisper, tmp_path: Path) -> None:
    """Long silence too, in steps that let other tasks have their turn, and finished steps are not done again."""
    path = write(tmp_path / "silence.flac", np.zeros(300 * SAMPLE_RATE, np.float32), "flac", SAMPLE_RATE)
    ctx = Recorder(tmp_path)
    result, units = drive(tiny, {"file": path}, ctx)
    assert result == {"text": "", "chunks": [], "language": None, "duration": 300.0}
    assert units == []
    assert ctx.turns >= 3
    later = ctx.again()
    assert drive(tiny, {"file": path}, later)[0] == result
    assert later.turns <= ctx.turns


def test_given_language_is_kept_and_unknown_ones_refused(tiny: Whisper, tmp_path: Path) -> None:
    result, units = drive(tiny, {"file": EXAMPLE, "language": "fr"}, Recorder(tmp_path))
    assert (result["language"], units[0].language) == ("fr", "fr")
    for wrong in ("xx", "Klingon", "en US of A", "e" * 1000):
        with pytest.raises(ValidationError):
            drive(tiny, {"file": EXAMPLE, "language": wrong}, Recorder(tmp_path))
    with pytest.raises(InvalidInput, match="'yue'"):  # Cantonese came with large-v3
        drive(tiny, {"file": EXAMPLE, "language": "yue"}, Recorder(tmp_path))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("task", "sing"),
        ("language", 5),
        ("word_timestamps", "yes"),
        ("vad", 1),
        ("initial_prompt", "x" * 2001),
        ("hotwords", ["a"]),
        ("file", None),
    ],
)
def test_wrong_options_are_refused(field: str, wrong: Any) -> None:
    file = FileRef("path", str(EXAMPLE))
    with pytest.raises(ValidationError) as refused:
        WhisperParams.model_validate({"file": file, field: wrong})
    assert refused.value.errors()[0]["loc"][0] == field


def test_hints_reach_the_model(tiny: Whisper, tmp_path: Path) -> None:
    """The tiny model counts tokens, so words before its own make it lose its place."""
    for hint in ("hotwords", "initial_prompt"):
        result, _ = drive(tiny, {"file": EXAMPLE, hint: "Optivus"}, Recorder(tmp_path))
        assert result["text"] != SENTENCE
        empty, _ = drive(tiny, {"file": EXAMPLE, hint: ""}, Recorder(tmp_path))
        assert empty["text"] == SENTENCE


def test_file_errors_are_typed(tiny: Whisper, tmp_path: Path) -> None:
    with pytest.raises(NoAudio):
        drive(tiny, {"file": write(tmp_path / "silent.mp4", None, video=1)}, Recorder(tmp_path))
    (tmp_path / "text.mp3").write_text("no song\n" * 100)
    with pytest.raises(ServiceError) as refused:
        drive(tiny, {"file": tmp_path / "text.mp3"}, Recorder(tmp_path))
    assert refused.value.code == "UNSUPPORTED_MEDIA"


def test_video_without_sound_may_be_an_empty_transcript(tiny: Whisper, tmp_path: Path) -> None:
    asked = {"file": write(tmp_path / "silent.mp4", None, video=1), "missing_audio": "empty"}
    result, units = drive(tiny, asked, Recorder(tmp_path))
    assert (result["text"], result["chunks"], result["language"], units) == ("", [], None, [])
    assert "no sound" in result["reason"]


def test_pieces_of_different_requests_are_written_in_one_batch(tiny: Whisper) -> None:
    """Each in its own language and task; hints of another length or another temperature keep them apart."""
    speech: Audio = np.concatenate(list(decode(EXAMPLE)))
    unit = Unit(speech, language="en")
    others = [Unit(speech, language="fr", task="translate", words=True), Unit(speech), Unit(speech, language="de")]
    assert {tiny.key(one) for one in (unit, *others)} == {tiny.key(unit)}
    hinted = dataclasses.replace(unit, hints=tiny._tokenizers.hints("Optivus", None))
    warmer = dataclasses.replace(unit, tried=(Try((), -2.0, 0.0, False),))
    assert len({tiny.key(one) for one in (unit, hinted, warmer)}) == 3
    passes = tiny.forward([tiny._reader.prepared(one) for one in (unit, *others)])
    outcomes = [tiny._reader.outcome(one) for one in passes]
    assert [outcome.segments[0].text for outcome in outcomes] == [SENTENCE] * 4
    assert [outcome.language for outcome in outcomes] == ["en", "fr", "en", "de"]
    assert [outcome.segments[0].words is None for outcome in outcomes] == [True, False, True, True]


@pytest.mark.parametrize("weights", ["made", pytest.param("real", marks=real_weights)])
def test_on_a_cpu_what_is_written_of_a_piece_is_the_same_in_any_company(
    tiny: Whisper, tmp_path: Path, weights: str
) -> None:
    """To the last bit, texts and scores, times and languages: int8 rounds a row alike whatever stands beside it."""
    worker = tiny if weights == "made" else loaded(MODELS / "whisper-tiny", tmp_path)
    speech: Audio = np.concatenate(list(decode(EXAMPLE)))[: 8 * SAMPLE_RATE]
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    sounds = (speech, speech[: 3 * SAMPLE_RATE], speech + np.float32(0.02) * noise)
    known = Evidence({"en": 9.0}, 9)
    asked = [worker._reader.prepared(Unit(sound, evidence=known, words=True, encode_only=True)) for sound in sounds]
    units = [one.unit for one in worker.forward(asked)]
    units = [dataclasses.replace(unit, language=None) for unit in units]

    def heard(*company: int) -> list[Any]:
        passes = worker.forward([units[index] for index in company])
        return [(one.detected, one.unit.tried, worker._reader.outcome(one).segments) for one in passes]

    alone = [heard(index)[0] for index in range(len(units))]
    for company in ((0, 1, 2), (2, 0)):
        assert heard(*company) == [alone[index] for index in company]


def test_on_a_gpu_a_recording_tells_the_same_in_fewer_batches(
    tiny: Whisper, tiny_on_a_gpu: Whisper, meeting: Path, tmp_path: Path
) -> None:
    """The language is decided before anything is written, and then all of its pieces are."""
    on_cpu, on_gpu = Recorder(tmp_path), Recorder(tmp_path)
    expected, _ = drive(tiny, {"file": meeting, "word_timestamps": True}, on_cpu)
    result, units = drive(tiny_on_a_gpu, {"file": meeting, "word_timestamps": True}, on_gpu)
    assert result == expected
    assert on_gpu.checkpoints == on_cpu.checkpoints
    assert [unit.encode_only for unit in units] == [True, *[False] * (len(units) - 1)]


def test_on_a_gpu_what_is_encoded_serves_later_passes_in_any_company(tiny_on_a_gpu: Whisper) -> None:
    speech: Audio = np.concatenate(list(decode(EXAMPLE)))
    sounds = (speech, speech[: 4 * SAMPLE_RATE], speech[2 * SAMPLE_RATE :])
    units = [tiny_on_a_gpu._reader.prepared(Unit(sound, language="en", encode_only=True)) for sound in sounds]
    first = tiny_on_a_gpu.forward(units)
    assert all(one.parts is None and one.unit.mel is None for one in first)
    rows = [one.unit.encoded for one in first]
    for order in ([0, 1, 2], [2, 0], [1]):
        again = tiny_on_a_gpu.forward([first[index].unit for index in order])
        assert [one.unit.encoded for one in again] == [rows[index] for index in order]
        assert [tiny_on_a_gpu._reader.outcome(one).segments[0].text for one in again] == [SENTENCE] * len(order)
    joint = joined([rows[2], rows[0]])
    assert np.array_equal(np.asarray(joint), np.asarray(rows[0].batch)[[2, 0]])
    assert joined(rows) is rows[0].batch


@pytest.mark.parametrize(
    ("width", "free_gb", "pieces"), [(384, 6, 32), (1280, 130, 32), (1280, 6, 4), (1280, 1, 1), (1000, 1, 1)]
)
def test_as_many_pieces_as_a_gpu_has_memory_for_share_a_batch(width: int, free_gb: float, pieces: int) -> None:
    assert pieces_that_fit(width, round(free_gb * 1e9), 5) == pieces


def test_where_a_gpus_memory_is_not_known_batches_are_small() -> None:
    assert pieces_that_fit(384, None, 5) == 8


@pytest.mark.parametrize("seconds", [5, 17, 22, 29])
def test_a_listeners_quick_pass_is_no_batch_with_a_files_pieces(tiny: Whisper, seconds: int) -> None:
    unit = Unit(np.zeros(seconds * SAMPLE_RATE, np.float32), language="en")
    assert tiny.key(dataclasses.replace(unit, quick=True)) != tiny.key(unit)


@pytest.mark.parametrize("room", [3, 1, 0])
def test_a_batch_too_large_for_the_device_is_halved(
    tiny: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """CTranslate2 itself runs out of memory above `room` pieces: later batches are small at once."""
    worker = loaded(Path(tiny.settings.model), tmp_path)
    model, sizes = worker._model.model, []

    class Small:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def generate(self, features: Any, prompts: list[Any], **how: Any) -> Any:
            sizes.append(len(prompts))
            if len(prompts) > room:
                raise RuntimeError("CUDA failed with error out of memory")
            return model.generate(features, prompts, **how)

    monkeypatch.setattr(worker._model, "model", Small())
    unit = worker._reader.prepared(Unit(np.concatenate(list(decode(EXAMPLE))), language="en"))
    passes = worker.forward([unit] * 4)
    if room:
        assert [worker._reader.outcome(one).segments[0].text for one in passes] == [SENTENCE] * 4
        assert sizes == {3: [4, 2, 2], 1: [4, 2, 1, 1, 2, 1, 1]}[room]
        assert worker.batch == {3: 2, 1: 1}[room]
    else:
        assert all(isinstance(one, OutOfMemory) for one in passes)


def test_settings_that_no_device_can_serve_are_answered(tiny: Whisper, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="WHISPER_DEVICE and WHISPER_COMPUTE_TYPE"):
        loaded(Path(tiny.settings.model), tmp_path, compute_type="int3")


def test_settings_have_their_documented_names() -> None:
    settings = WhisperSettings.model_validate(
        {"AI_WHISPER_MODEL": "a/b", "AI_WHISPER_BATCH_WORKER": "7", "threads": "3"}
    )
    assert (settings.model, settings.batch, settings.threads) == ("a/b", 7, 3)
    assert WhisperSettings().model == "openai/whisper-base"
    assert Whisper(settings, folders(Path())).batch == 7
