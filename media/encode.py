"""Sound going out: float samples become 16-bit ones in one place, and those a file or the bytes of an answer.

    float32 ─▶ as_int16 ─┬▶ pieces of a stream
                         ├▶ WavFile: on disk, growing as the sound comes
                         ├▶ Encoder: mp3 or opus in memory, growing too
                         └▶ encoded: a whole sound as wav, pcm, mp3 or opus

Everything after `as_int16` is made of the same 16-bit samples, so the pieces of a stream, joined, are the file.
"""

from __future__ import annotations

import dataclasses
import os
import wave
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt

Kind = Literal["wav", "pcm", "mp3", "opus"]
Samples = npt.NDArray[np.int16]
"""int16, shape (n_samples,), mono."""

_FULL_SCALE = 1 << 15
_BLOCK_SAMPLES = 1 << 16
"""An encoder is given so many samples at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Codec:
    """name, container: FFmpeg's. rates: Hz, ascending; the first that loses nothing is taken. bit_rate: bits/s."""

    name: str
    container: str
    rates: tuple[int, ...]
    bit_rate: int
    options: dict[str, str]


_CODECS = {
    # Below 16 kHz mp3 is MPEG 2.5, an extension that not every player reads.
    "mp3": _Codec("libmp3lame", "mp3", (16_000, 22_050, 24_000, 32_000, 44_100, 48_000), 96_000, {}),
    "opus": _Codec("libopus", "ogg", (48_000,), 32_000, {"application": "voip"}),
}


def as_int16(audio: npt.NDArray[np.floating[Any]]) -> Samples:
    """Samples in [-1, 1] as 16-bit ones, rounded; what lies beyond is clipped. Undoes what decoding does, exactly."""
    scaled: npt.NDArray[np.floating[Any]] = np.rint(audio * _FULL_SCALE)
    return scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


class WavFile:
    """A 16-bit mono wav file that grows; whole, valid and on the disk once it is closed. Also a context manager.

    Raises: OSError.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path, self.sample_rate, self.samples = path, sample_rate, 0
        self._file = path.open("wb")
        self._wave = _mono(self._file, sample_rate)

    @property
    def duration(self) -> float:
        """Seconds written so far."""
        return self.samples / self.sample_rate

    def append(self, samples: Samples) -> None:
        self._wave.writeframesraw(_little_endian(samples))
        self.samples += len(samples)

    def close(self) -> None:
        """Write the length into the header and wait for the disk. Closing twice is closing once."""
        if self._file.closed:
            return
        with self._file:
            self._wave.close()
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> WavFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Encoder:
    """An mp3 or Ogg Opus file in memory that grows with the sound, so that nobody waits for all of it at the end.

    It plays for as long as the samples do: what an encoder adds before and after is marked to be skipped.
    """

    def __init__(self, sample_rate: int, kind: Literal["mp3", "opus"]) -> None:
        codec = _CODECS[kind]
        rate = next((rate for rate in codec.rates if rate >= sample_rate), codec.rates[-1])
        self._rate, self._samples = sample_rate, 0
        self._file = BytesIO()
        self._container = av.open(self._file, "w", format=codec.container)
        self._stream: Any = self._container.add_stream(codec.name, rate=rate, layout="mono", options=codec.options)
        self._stream.bit_rate = codec.bit_rate
        self._resampler = av.AudioResampler(self._stream.codec_context.format.name, "mono", rate)

    def append(self, samples: Samples) -> None:
        for start in range(0, len(samples), _BLOCK_SAMPLES):
            block = np.ascontiguousarray(samples[np.newaxis, start : start + _BLOCK_SAMPLES])
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.sample_rate, frame.pts = self._rate, self._samples
            self._samples += block.size
            self._write(frame)

    def finish(self) -> bytes:
        """The whole file."""
        self.append(np.zeros(max(0, self._rate // 100 - self._samples), np.int16))  # some encoders write nothing
        self._write(None)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue()

    def _write(self, frame: Any) -> None:
        for resampled in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(resampled))


def encoded(samples: Samples, sample_rate: int, kind: Kind) -> bytes:
    """A whole file of this sound; `pcm` is the bare samples, little-endian."""
    if kind == "pcm":
        return _little_endian(samples)
    if kind == "wav":
        made = BytesIO()
        with _mono(made, sample_rate) as file:
            file.writeframes(_little_endian(samples))
        return made.getvalue()
    encoder = Encoder(sample_rate, kind)
    encoder.append(samples)
    return encoder.finish()


def _mono(file: Any, sample_rate: int) -> wave.Wave_write:
    made = wave.Wave_write(file)
    made.setnchannels(1)
    made.setsampwidth(np.dtype(np.int16).itemsize)
    made.setframerate(sample_rate)
    return made


def _little_endian(samples: Samples) -> bytes:
    return samples.astype("<i2", copy=False).tobytes()
