"""The sound of a recording that is still being sent, as it comes: 16 kHz mono, in memory only what was not read yet.

    pcm_…       the file, read on from where it was ─▶ resampler ─▶ read()
    webm, …     the file ─▶ FFmpeg in a thread, which stops wherever there is no more ─▶ read()

FFmpeg cannot be asked to come back later: it calls for bytes and waits for them. So it runs in a thread of its own that
works only while `read` waits for it: the two take turns, and nothing is decoded that nobody has asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import av
import numpy as np
import numpy.typing as npt

from contract.errors import UnsupportedMedia
from media.audio import SAMPLE_RATE, Audio, Gap, aligned, as_float, audio_stream
from media.container import opened_stream
from media.downmix import even
from media.opening import Head, Heavy, too_heavy

Format = Literal["pcm_s16le", "pcm_f32le", "webm", "ogg", "mp4"]
"""Raw samples, or what browsers record."""

BLOCK: Final = 30 * SAMPLE_RATE
"""Samples; `read` gives hardly more at once."""

_SAMPLES: dict[str, np.dtype[Any]] = {"pcm_s16le": np.dtype("<i2"), "pcm_f32le": np.dtype("<f4")}
_DEMUXERS = {"webm": "matroska", "ogg": "ogg", "mp4": "mov"}
_BEGINNINGS = {"matroska": b"\x1a\x45\xdf\xa3", "ogg": b"OggS"}


class Sound(Protocol):
    """A growing recording's sound. position: how many samples were read or skipped so far."""

    position: int

    def read(self) -> Audio | Gap:
        """What came since the last call, about BLOCK at most; nothing where there is no more yet, or at the end.

        A long gap comes alone.

        Raises: UnsupportedMedia, NoAudio.
        """

    def close(self) -> None:
        """Let go of the file."""


def follow(path: Path, kind: Format, sample_rate: int, ended: Callable[[], bool], start: int = 0) -> Sound:
    """Read a recording that grows.

    sample_rate: Hz, of raw samples. ended: whether it is whole; asked from another thread, but only while `read` runs.
    start: the sample at 16 kHz that is wanted first; raw samples before it are left out, what is compressed is decoded
    from its beginning.
    """
    if kind in _SAMPLES:
        return _Raw(path, _SAMPLES[kind], sample_rate, start)
    return _Compressed(path, _DEMUXERS[kind], kind, ended)


class _Raw:
    """Samples, little-endian, mono: of 16 bits, or floats in [-1, 1]."""

    def __init__(self, path: Path, kind: np.dtype[Any], rate: int, start: int) -> None:
        self.position = start
        self._kind = kind
        self._rate = rate
        self._file = path.open("rb")
        self._file.seek(kind.itemsize * (start * rate // SAMPLE_RATE))
        self._resampler = None if rate == SAMPLE_RATE else av.AudioResampler("s16", "mono", SAMPLE_RATE)

    def read(self) -> Audio:
        raw = self._file.read(self._kind.itemsize * (BLOCK * self._rate // SAMPLE_RATE))
        if begun := len(raw) % self._kind.itemsize:  # the rest of the sample is still to come
            self._file.seek(-begun, 1)
            raw = raw[:-begun]
        samples = self._at_16_khz(even(np.frombuffer(raw, self._kind)))
        self.position += len(samples)
        return as_float(samples)

    def _at_16_khz(self, samples: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        if self._resampler is None or not len(samples):
            return samples
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], "s16", "mono")
        frame.sample_rate = self._rate
        return np.concatenate([piece.to_ndarray().reshape(-1) for piece in self._resampler.resample(frame)])

    def close(self) -> None:
        self._file.close()


class _Compressed:
    """A container that can be read from its beginning on, without seeking."""

    def __init__(self, path: Path, demuxer: str, kind: str, ended: Callable[[], bool]) -> None:
        self.position = 0
        self._ended = ended
        self._demuxer = demuxer
        self._kind = kind
        self._file = path.open("rb")
        self._decoded: list[npt.NDArray[np.int16]] = []
        self._samples = 0
        self._gap: Gap | None = None
        self._failure: BaseException | None = None
        self._closed = self._over = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def read(self) -> Audio | Gap:
        if self._gap is None and not self._over:
            self._go.release()
            self._stopped.acquire()
        if self._failure is not None:
            raise self._failure
        if self._gap is not None and not self._decoded:
            gap, self._gap = self._gap, None
            self.position += gap.samples
            return gap
        decoded = np.concatenate([np.empty(0, np.int16), *self._decoded])
        self._decoded, self._samples = [], 0
        self.position += len(decoded)
        return as_float(decoded)

    def close(self) -> None:
        self._closed = True
        self._go.release()
        self._thread.join()
        self._file.close()

    # In the thread.

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._decode()
        except BaseException as exc:  # noqa: BLE001 - `read` raises it
            self._failure = exc
        self._over = True
        self._stopped.release()

    def _decode(self) -> None:
        source = _Source(self, Head(_BEGINNINGS.get(self._demuxer, b"")))
        if self._file.peek(1) == b"" and not source.wait():
            return  # a recording in which there is nothing at all
        with opened_stream(source, self._refusal, self._demuxer) as container:
            source.head.opened()
            nothing = True
            for piece in aligned(container, audio_stream(container), SAMPLE_RATE):
                nothing = False
                if isinstance(piece, Gap):
                    self._gap = piece
                else:
                    self._decoded.append(piece)
                    self._samples += len(piece)
                if self._gap is not None or self._samples >= BLOCK:
                    self.pause()
                if self._closed:
                    return
        if nothing and not self._closed:
            raise self._refusal()

    def _refusal(self, exc: Exception | None = None) -> UnsupportedMedia:
        return UnsupportedMedia(
            f"This recording is not {self._kind}, or its beginning is missing: send it from its first byte on, "
            "or send samples as pcm_s16le.",
            field="audio",
        )

    def pause(self) -> None:
        """Let `read` have what there is, and go on when it wants more."""
        self._stopped.release()
        self._go.acquire()

    def bytes(self, size: int) -> bytes:
        """The next ones, at most `size`; none at the end."""
        while not self._closed:
            whole = self._ended()  # before reading: what comes after the end is nothing
            data = self._file.read1(size)
            if data or whole:
                return data
            self.pause()
        return b""


class _Source:
    """What FFmpeg reads from."""

    def __init__(self, sound: _Compressed, head: Head) -> None:
        self._sound = sound
        self.head = head
        self._first = b""

    def wait(self) -> bool:
        """Wait for the first byte. Returns False when there will be none."""
        self._first = self._sound.bytes(1)
        return bool(self._first)

    def read(self, size: int) -> Any:
        first, self._first = self._first, b""
        try:
            return self.head.passed(lambda: first or self._sound.bytes(size))
        except Heavy as exc:  # no recorder writes so many tags, and it cannot be tried first
            raise too_heavy() from exc
