"""Speech with the times of its words, cut at random, with other sounds before or under it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from media.audio import SAMPLE_RATE, Audio, decode
from tests.recordings import EXAMPLE

_EXAMPLE = """
and .32 .52 so .54 .82 my .86 1.16 fellow 1.2 1.56 americans 1.58 2.1 ask 3.32 3.72 not 3.8 4.2 what 5.38 5.54 your 5.56
5.74 country 5.76 6.22 can 6.26 6.6 do 6.62 6.8 for 6.84 7.04 you 7.06 7.34 ask 8.1 8.46 what 8.5 8.74 you 8.78 9.02 can
9.06 9.3 do 9.34 9.54 for 9.58 9.76 your 9.78 9.94 country 9.98 10.36
"""
"""Word, from, to."""


class Clip(NamedTuple):
    """words: (from, to) of each, in seconds."""

    audio: Audio
    words: list[tuple[float, float]]

    def after(self, sound: Audio) -> Clip:
        """The same with another sound before it."""
        seconds = len(sound) / SAMPLE_RATE
        moved = [(start + seconds, end + seconds) for start, end in self.words]
        return Clip(np.concatenate([sound, self.audio]), moved)

    def outside(self, spans: Iterable[tuple[float, float]]) -> int:
        """How many words lie, with their middle, in none of the spans (seconds)."""
        heard = list(spans)
        return sum(not any(start <= (a + b) / 2 <= end for start, end in heard) for a, b in self.words)


def clips(folder: Path) -> list[Clip]:
    """The repository's example, and those in the folder with times for their words (`transcripts.json`), if any."""
    listed = _EXAMPLE.split()
    words = [(float(start), float(end)) for start, end in zip(listed[1::3], listed[2::3], strict=True)]
    found = [Clip(_read(EXAMPLE), words)]
    transcripts = folder / "transcripts.json"
    for clip in json.loads(transcripts.read_text()) if transcripts.is_file() else []:
        if "words" in clip:
            times = [(word["start"], word["end"]) for word in clip["words"]]
            found.append(Clip(_read(folder / clip["file"]), times))
    return found


def cut_at_random(clip: Clip, chance: np.random.Generator) -> Clip:
    """From any moment in its first two thirds, now and then from its beginning, to its end or earlier."""
    length = len(clip.audio) / SAMPLE_RATE
    start = chance.uniform(0, length * 2 / 3) if chance.random() < 0.8 else 0.0
    end = length if chance.random() < 0.5 else chance.uniform(start + (length - start) / 2, length)
    words = [(a - start, b - start) for a, b in clip.words if a >= start and b <= end]
    return Clip(clip.audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)], words)


def _read(path: Path) -> Audio:
    return np.concatenate(list(decode(path)))
