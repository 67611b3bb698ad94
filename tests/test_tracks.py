"""Which of several audio tracks is heard: by number, by language, by default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydantic import ValidationError

from contract.errors import InvalidInput, NoAudio
from contract.messages import FileRef
from media.audio import SAMPLE_RATE, decode
from pipeline.video import video
from tests.accuracy import word_error_rate
from tests.drive import Recorder, drive
from tests.recordings import Samples, write
from tests.test_whisper import MODELS, loaded, real_weights
from workers.runtime.discovery import discover
from workers.whisper.params import WhisperParams

NASA = MODELS.parent / "media" / "video" / "nasa_13013.mp4"


def film(path: Path, *tracks: tuple[str, int], default: int | None = None) -> Path:
    """Tracks of one second, each a tone of its own in Hz, with the languages' tags. default: which is the main one."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono") for _ in tracks]
        for number, (stream, (language, _)) in enumerate(zip(streams, tracks, strict=True)):
            if language:
                stream.metadata["language"] = language
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        packets = []
        for stream, (_, tone) in zip(streams, tracks, strict=True):
            samples = 8_000 * np.sin(2 * np.pi * tone * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
            frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[np.newaxis], "s16", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            packets += [*stream.encode(frame), *stream.encode(None)]
        container.mux(packets)  # the header wants every track's encoder to be open
    return path


def tone(samples: Samples) -> int:
    return int(np.abs(np.fft.rfft(samples[: SAMPLE_RATE // 2])).argmax()) * 2


def heard(path: Path, track: str | None = None) -> int:
    return tone(np.concatenate(list(decode(path, track=track))))


@pytest.mark.parametrize(
    ("track", "hertz"),
    [
        *(("1", 300), ("2", 500), ("3", 700), ("4", 900)),
        *(("en", 300), ("eng", 300), ("English", 300), ("EN", 300), ("en-US", 300)),
        *(("zh-CN", 1100), ("cmn", 1100), ("Chinese", 1100)),
        *(("de", 500), ("deu", 500), ("ger", 500), ("German", 500)),
        *(("pt-BR", 700), ("por", 700), ("Portuguese", 700)),
    ],
)
def test_a_track_is_found_by_number_or_language(tmp_path: Path, track: str, hertz: int) -> None:
    path = film(tmp_path / "a.mkv", ("eng", 300), ("ger", 500), ("por", 700), ("", 900), ("chi", 1100))
    assert heard(path, track) == hertz


def test_of_two_in_one_language_the_main_one_is_heard(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", ("eng", 300), ("spa", 500), ("spa", 700), default=2)
    assert heard(path, "es") == 700
    assert heard(path, "en") == 300
    assert heard(path) == 700


@pytest.mark.parametrize(
    ("track", "sentence"),
    [
        ("3", r"no audio track 3; it has 1 \(English\), 2 \(its language is not given\)\."),
        ("fr", r"no audio track in 'fr'; it has 1 \(English\), 2"),
        ("und", "no audio track in 'und'"),
        ("what people say", "no audio track in 'what people say'"),
    ],
)
def test_a_track_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, track: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        heard(film(tmp_path / "a.mkv", ("eng", 300), ("", 500)), track)
    assert refused.value.details == {"field": "track"}


def test_a_film_without_sound_has_no_track(tmp_path: Path) -> None:
    with pytest.raises(NoAudio):
        heard(write(tmp_path / "a.mp4", None, video=1), "2")


@pytest.mark.parametrize("given", [0, -1, "0", "-2", True, 1.5, [], {}, 2**64, "x" * 65, "9" * 5_000])
def test_what_is_no_track_is_refused_at_the_door(given: object) -> None:
    with pytest.raises(ValidationError, match="a number from 1 on, or a language"):
        WhisperParams(file=FileRef("path", "/a", "a"), track=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "meant"), [(2, "2"), ("2", "2"), (" en ", "en"), ("", None), (None, None)])
def test_a_track_is_given_as_number_or_text(given: Any, meant: str | None) -> None:
    assert WhisperParams(file=FileRef("path", "/a", "a"), track=given).track == meant


def test_a_video_takes_a_track_among_its_options_or_beside_them() -> None:
    plan = video(discover(), 10)
    for asked in ({"track": 2}, {"whisper": {"track": "2"}}):
        params, warnings = plan.parse({"type": "video", "urls": ["https://a.example/a"], **asked}, bind=unused)
        assert (params["whisper"], warnings) == ({"track": "2"}, ())


def unused(value: str | bytes) -> FileRef:
    raise AssertionError(value)


@real_weights
@pytest.mark.skipif(not NASA.is_file(), reason="without its film")
def test_either_track_of_a_real_film_is_heard(tmp_path: Path) -> None:
    worker = loaded(MODELS / "whisper-tiny", tmp_path, threads=2, beam_size=1)
    text = (
        "This is the optical and science segment of the Webb Space Telescope in one of the largest clean rooms in the "
        "world at NASA's Goddard Space Flight Center in Greenbelt, Maryland."
    )
    assert os.environ["OPTIVUS_TEST_MODELS"]
    for track in ("1", "2", "en"):
        result, _ = drive(worker, {"file": NASA, "track": track}, Recorder(tmp_path))
        assert word_error_rate(text, result["text"]) < 0.2
