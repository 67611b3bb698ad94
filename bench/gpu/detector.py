"""The voice detector alone, on one thread: ours, which cuts pieces of what it hears both ways, and faster-whisper's."""

from __future__ import annotations

import time

from bench.gpu.parts import Setup
from bench.gpu.recordings import make_recordings
from bench.gpu.served import Library
from bench.gpu.table import print_rows
from bench.gpu.turns import Figures, take_turns
from media.audio import SAMPLE_RATE, Audio

RATE = "x real time"


def measure(setup: Setup, seconds: float) -> None:
    [file] = make_recordings(setup.folder / "detector", setup.speech, 1, seconds)
    with Library(_load, str(file.path)) as library:
        turns = [
            library.turn("faster-whisper's get_speech_timestamps", lambda: library.call(_theirs)),
            library.turn("media.speech.cut", lambda: library.call(_ours)),
        ]
        found = take_turns(turns, setup.until, setup.gpu)
    print_rows(f"the voice detector, {seconds:g} s on one thread", found, [])


# In a process of its own.

_sound: Audio


def _load(path: str) -> None:
    global _sound  # noqa: PLW0603 - a process pool has no other place for what was loaded
    from pathlib import Path

    import numpy as np
    from faster_whisper.vad import get_vad_model

    from media.audio import decode

    get_vad_model()
    _sound = np.concatenate(list(decode(Path(path))))


def _theirs() -> Figures:
    from faster_whisper.vad import get_speech_timestamps

    began = time.perf_counter()
    get_speech_timestamps(_sound)
    return {RATE: len(_sound) / SAMPLE_RATE / (time.perf_counter() - began)}


def _ours() -> Figures:
    from media.speech import cut

    began = time.perf_counter()
    for _ in cut([_sound], vad=True):
        pass
    return {RATE: len(_sound) / SAMPLE_RATE / (time.perf_counter() - began)}
