"""Sound on its way out of the worker: one file, the events of a stream, the samples of the answer, all the same ones.

    float32 ─▶ Joiner ─▶ as_int16 ─┬▶ the wav file, growing in the task's folder; moved to FS_PATH when it is whole
                                   ├▶ mp3 or opus, encoded as it comes: at the end it would hold up everybody else
                                   └▶ pieces of 40 to 100 ms ─▶ ctx.audio

A later attempt makes everything again and tells what was not told: its pieces go on at the sample where the last one
ended. Nothing but the file keeps the sound while it is made, so a long text takes no memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import wave
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract.folders import Folders
from media.encode import Encoder, Kind, Samples, WavFile, as_int16
from storage.workdirs import half as half_of
from workers.base import Context
from workers.fish.joints import Joiner

SHORTEST_SECONDS = 0.04
LONGEST_SECONDS = 0.1
"""Seconds of sound in an event: enough that the event's own bytes hardly count, few enough that nobody waits."""
FIRST_SECONDS = 0.01
"""Least seconds of the first event: the joiner holds back a part of the first frame, which has 46 ms."""

Format = Literal["list", "none"] | Kind

_EMPTY: Samples = np.empty(0, dtype=np.int16)


class Delivery:
    """The sound of one answer. Use it as a context manager: its file is closed whatever happens."""

    def __init__(self, ctx: Context, folders: Folders, sample_rate: int, stream: bool, audio_format: Format) -> None:
        self._ctx = ctx
        self._rate = sample_rate
        self._target = folders.speech / f"tts_{hashlib.sha256(ctx.key.encode()).hexdigest()[:24]}.wav"
        self._joiner = Joiner(sample_rate)
        self._wav = WavFile(ctx.workdir / self._target.name, sample_rate)
        self._format = audio_format
        self._encoder = Encoder(sample_rate, audio_format) if audio_format in ("mp3", "opus") else None
        self._stream = stream
        self._index = len(ctx.finished)
        self._told = ctx.finished[-1]["end"] if ctx.finished else 0
        self._waiting: Samples = _EMPTY
        self._made = 0

    def add(self, sound: npt.NDArray[np.float32]) -> None:
        """The next sound of the piece of text in hand, float32, (n_samples,)."""
        self._take(self._joiner.push(sound))

    def end_piece(self, pause: float) -> None:
        """A piece of text has been said, and seconds of silence follow."""
        self._take(self._joiner.end_piece(pause))

    def finish(self) -> dict[str, Any]:
        """The answer, once every piece was said; the file lies where it stays, and belongs to the job's owner."""
        self._take(self._joiner.finish())
        self._tell(last=True)
        self._wav.close()
        duration = self._wav.duration
        answer: dict[str, Any] = {"fish": str(self._target), "sample_rate": self._rate, "duration": round(duration, 3)}
        if self._format != "none":
            answer["audio_data"] = self._data()
        _move(self._wav.path, self._target)
        self._ctx.made(self._target, self._target.name)
        return answer

    def _data(self) -> npt.NDArray[np.float32] | bytes:
        if self._encoder is not None:
            return self._encoder.finish()
        if self._format == "wav":
            return self._wav.path.read_bytes()
        samples = _read(self._wav.path)
        return samples.tobytes() if self._format == "pcm" else samples.astype(np.float32) / np.float32(2**15)

    def _take(self, sound: npt.NDArray[np.float32]) -> None:
        samples = as_int16(sound)
        self._wav.append(samples)
        if self._encoder is not None:
            self._encoder.append(samples)
        if self._stream:
            unheard = samples[max(0, self._told - self._made) :]
            self._waiting = np.concatenate([self._waiting, unheard])
            self._tell(last=False)
        self._made += len(samples)

    def _tell(self, last: bool) -> None:
        """Tell the waiting sound in pieces. A rest that is too short for a piece waits on, unless it is the last."""
        longest = round(LONGEST_SECONDS * self._rate)
        while len(self._waiting) >= (1 if last else self._shortest()):
            piece, self._waiting = self._waiting[:longest], self._waiting[longest:]
            self._ctx.audio(self._index, self._told, piece, self._rate)
            self._index += 1
            self._told += len(piece)

    def _shortest(self) -> int:
        return round((SHORTEST_SECONDS if self._index else FIRST_SECONDS) * self._rate)

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, *exc: object) -> None:
        self._wav.close()


def _read(path: Path) -> Samples:
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def _move(path: Path, target: Path) -> None:
    """Move a file into its place, whole and on the disk. It replaces what an earlier attempt left there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.replace(target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        half = half_of(target.parent, target.name)
        try:
            shutil.copyfile(path, half)
            with half.open("rb") as copied:
                os.fsync(copied.fileno())
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)
