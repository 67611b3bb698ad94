"""Hints that Whisper repeats instead of hearing are noticed, and what somebody really says is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.audio import SAMPLE_RATE, decode
from tests.accuracy import word_error_rate, words
from tests.drive import Recorder, drive, folders
from tests.recordings import write
from workers.whisper.echo import echoes, once
from workers.whisper.worker import Whisper, WhisperSettings

MODELS = Path(os.environ.get("OPTIVUS_TEST_MODELS", "nowhere"))
SPEECH = MODELS.parent / "media" / "speech"
CLIPS = json.loads((SPEECH / "transcripts.json").read_text()) if (SPEECH / "transcripts.json").is_file() else []
SAID = {clip["file"]: clip["text"] for clip in CLIPS}
real_weights = pytest.mark.skipif(not (MODELS / "whisper-base").is_dir(), reason="OPTIVUS_TEST_MODELS has no Whisper")

NAMES = "Anna, Berta, Carla. "
JAPANESE = "本日は晴天なり。"


@pytest.mark.parametrize(
    "line",
    ["Anna, Berta, Carla.", " anna berta CARLA anna berta", "Carla. Anna, Berta", "Carla, Anna, Berta, Carla", "Anna"],
)
def test_the_hints_their_repetition_and_their_tail_are_an_echo(line: str) -> None:
    assert echoes(line, NAMES)


@pytest.mark.parametrize(
    "line", ["", "...", "And then Anna, Berta and I went home.", "Bert", "Ask not what Carla can do"]
)
def test_what_people_say_is_none(line: str) -> None:
    assert echoes(line, NAMES) == (line == "Bert")  # a part of a name may be one


def test_other_scripts_echo_too() -> None:
    assert echoes("本日は晴天なり。本日は晴", JAPANESE * 20)
    assert not echoes("今日は雨が降っています", JAPANESE * 20)
    assert not echoes("And so my fellow Americans", JAPANESE * 20)


@given(st.text(min_size=1, max_size=200), st.integers(1, 5), st.integers(0, 100))
def test_any_hint_repeated_is_an_echo_of_itself(hint: str, times: int, skipped: int) -> None:
    line = (hint * times)[skipped:]
    assert echoes(line, hint) == any(character.isalnum() for character in line) or not line


@pytest.fixture(scope="module", params=["tiny", "base"])
def whisper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    settings = WhisperSettings(model=str(MODELS / f"whisper-{request.param}"), threads=1)
    worker = Whisper(settings, folders(tmp_path_factory.mktemp("data")))
    worker.load()
    return worker


def text(worker: Whisper, file: Path, folder: Path, **asked: Any) -> str:
    return str(drive(worker, {"file": file, **asked}, Recorder(folder))[0]["text"])


@real_weights
@pytest.mark.parametrize(("field", "file"), [("initial_prompt", "jfk.flac"), ("hotwords", "test.wav")])
@pytest.mark.parametrize(
    "hint",
    [NAMES, "Kubernetes, Grafana, Prometheus, ", JAPANESE, "Thank you for watching this video. "],
    ids=["names", "terms", "japanese", "sentence"],
)
def test_hints_that_loop_never_become_the_transcript(
    whisper: Whisper, tmp_path: Path, field: str, file: str, hint: str
) -> None:
    heard = text(whisper, SPEECH / file, tmp_path, **{field: (hint * 200)[:2000]})
    assert word_error_rate(SAID[file], heard) <= 0.25, heard


@pytest.mark.parametrize(
    ("hints", "told"),
    [
        ("Anna, Berta, " * 9, "Anna, Berta,"),
        ("Anna, Berta, Carla, Anna, Berta, Carla, Anna, Ber", "Anna, Berta, Carla,"),
        ("Anna, Berta, Anna, Carla", "Anna, Berta, Anna, Carla"),
        ("Anna", "Anna"),
        ("", ""),
    ],
)
def test_hints_that_loop_are_said_once(hints: str, told: str) -> None:
    assert once(hints) == told


@real_weights
@pytest.mark.parametrize("times", [1, 20])
def test_who_says_the_hints_keeps_them(whisper: Whisper, tmp_path: Path, times: int) -> None:
    """A speaker may say just what was expected. Hints that loop made Whisper say a phrase twice or end early."""
    for file in ("jfk.flac", "test.wav"):
        heard = text(whisper, SPEECH / file, tmp_path, hotwords=(f"{SAID[file]} " * times)[:2000])
        assert word_error_rate(SAID[file], heard) <= 0.1, heard


@real_weights
@pytest.mark.parametrize("hint", [NAMES * 100, "Kubernetes, Grafana, Prometheus", "Thank you for watching this video."])
def test_noise_after_speech_says_no_hints(whisper: Whisper, tmp_path: Path, hint: str) -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal(6 * SAMPLE_RATE)
    sound = np.concatenate([*decode(SPEECH / "test.wav"), noise.astype(np.float32)])
    file = write(tmp_path / "noisy.wav", sound, rate=SAMPLE_RATE)
    for vad in (True, False):
        heard = text(whisper, file, tmp_path, hotwords=hint[:2000], vad=vad, language="en")
        assert not (set(words(hint)) - set(words(SAID["test.wav"]))) & set(words(heard)), heard
