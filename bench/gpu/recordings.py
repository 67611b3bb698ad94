"""Recordings of speech: clips one after the other, in an order, with pauses and a loudness of their own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from media.audio import SAMPLE_RATE, Audio
from tests.recordings import write
from tests.spoken import clips

_PAUSES = (0.3, 0.8)
"""Seconds between two clips, from and to."""
_SILENCE = 8.0
"""Seconds without speech at the end, so that two minutes are four pieces for whoever cuts them: a fifth one of two
seconds would take as long here as one of thirty."""


class Recording(NamedTuple):
    path: Path
    seconds: float


def make_recordings(folder: Path, speech: Path, count: int, seconds: float) -> list[Recording]:
    """So many different ones, as flac. speech: a folder as `tests.spoken.clips` reads it; without one there is the
    repository's example alone."""
    voices = [clip.audio for clip in clips(speech)]
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        sound = joined(voices, seconds, seed=number)
        path = write(folder / f"{number}-{seconds:g}.flac", sound, "flac", SAMPLE_RATE)
        made.append(Recording(path, len(sound) / SAMPLE_RATE))
    return made


def joined(voices: list[Audio], seconds: float, seed: int) -> Audio:
    """Exactly so long: whole clips, of which the last may be the beginning of one, and silence at the end."""
    chance = np.random.default_rng(seed)
    parts: list[Audio] = []
    missing = int((seconds - _SILENCE) * SAMPLE_RATE)
    while missing > 0:
        pause = np.zeros(int(chance.uniform(*_PAUSES) * SAMPLE_RATE), np.float32)
        voice = voices[chance.integers(len(voices))] * np.float32(chance.uniform(0.5, 1.0))
        parts += [pause, voice]
        missing -= len(pause) + len(voice)
    spoken = np.concatenate(parts)[: int((seconds - _SILENCE) * SAMPLE_RATE)]
    return np.concatenate([spoken, np.zeros(int(seconds * SAMPLE_RATE) - len(spoken), np.float32)])
