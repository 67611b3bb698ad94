"""Float samples become 16-bit ones exactly, and any encoding of them plays as long as they do, in step."""

from __future__ import annotations

import wave
from io import BytesIO
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from media.audio import decode
from media.encode import Kind, Samples, WavFile, as_int16, encoded
from tests.recordings import EXAMPLE

RATE = 44_100


@pytest.fixture(scope="module")
def speech() -> Samples:
    return as_int16(np.concatenate(list(decode(EXAMPLE, RATE))))


def played(content: bytes, folder: Path, rate: int = RATE) -> Samples:
    path = folder / "played"
    path.write_bytes(content)
    return as_int16(np.concatenate(list(decode(path, rate))))


def lag(heard: Samples, said: Samples) -> int:
    """By how many samples one is behind the other."""
    size = len(heard) + len(said)
    together = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)
    at = int(together.argmax())
    return at if at < size // 2 else at - size


def test_samples_are_rounded_and_clipped() -> None:
    audio = np.array([0, 1, -1, 2, -2, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768], np.float32)
    assert as_int16(audio).tolist() == [0, 32767, -32768, 32767, -32768, 1, -1, 0]
    every = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(as_int16(every / np.float32(32768)), every)


def test_pieces_of_a_stream_joined_are_the_file(tmp_path: Path, speech: Samples) -> None:
    with WavFile(tmp_path / "a.wav", RATE) as file:
        for start in range(0, len(speech), 10_007):
            file.append(speech[start : start + 10_007])
        assert file.duration == len(speech) / RATE
    file.close()
    with wave.open(str(file.path)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, RATE)
        assert read.readframes(read.getnframes()) == speech.tobytes() == encoded(speech, RATE, "pcm")
    assert file.path.read_bytes() == encoded(speech, RATE, "wav")


@pytest.mark.parametrize("kind", ["mp3", "opus"])
@pytest.mark.parametrize("rate", [RATE, 24_000, 8_000])
def test_compressed_sound_plays_as_long_and_in_step(tmp_path: Path, speech: Samples, kind: Kind, rate: int) -> None:
    """The samples taken as if they had been recorded at `rate`, which not every codec has."""
    said = speech[: 3 * rate + 123]
    content = encoded(said, rate, kind)
    assert len(content) < len(said.tobytes())
    heard = played(content, tmp_path, rate)
    assert len(heard) == pytest.approx(len(said), abs=0.005 * rate)
    assert abs(lag(heard, said)) < 0.002 * rate
    with av.open(BytesIO(content)) as container:
        assert container.streams.audio[0].rate == (max(rate, 16_000) if kind == "mp3" else 48_000)
    assert content[:4] == b"OggS" if kind == "opus" else content[:3] == b"ID3"


@pytest.mark.parametrize("kind", ["wav", "mp3", "opus"])
@pytest.mark.parametrize("samples", [1, 50, 2_000])
def test_the_shortest_sound_is_a_valid_file(tmp_path: Path, speech: Samples, kind: Kind, samples: int) -> None:
    assert len(played(encoded(speech[:samples], RATE, kind), tmp_path)) == pytest.approx(samples, abs=0.02 * RATE)


def test_no_sound_at_all_is_encoded_without_an_error() -> None:
    sizes = {kind: len(encoded(np.empty(0, np.int16), RATE, kind)) for kind in get_args(Kind)}
    assert sizes["pcm"] == 0
    assert all(size for kind, size in sizes.items() if kind != "pcm")
