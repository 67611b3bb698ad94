"""Where a piece of a recording is silent, by its energy: what words cannot lie in, whatever else says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from media.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from media.audio import Audio

_HOP = SAMPLE_RATE // 50
_SILENCE, _SOUND = 0.2, 0.06
"""Seconds. A `t` or a `k` is silent for up to half of the first; sound shorter than the second is no word."""
_BEAT = 5
"""Hops that a vowel lasts, at least."""
_DEEPEST, _HIGHEST, _ABOVE_FLOOR = -45.0, -25.0, 10.0
"""dB. Sound is louder than the quietest hops by the third number; this limit is kept between the other two, which are
relative to the loudest hops."""


def sounding(audio: Audio, speech: Sequence[tuple[float, float]] | None) -> list[tuple[float, float]]:
    """Seconds between which something can be heard, within the speech if that is known.

    audio: float32, mono, 16 kHz. speech: by a voice detector.
    """
    hops = audio[: len(audio) // _HOP * _HOP].reshape(-1, _HOP)
    if not len(hops):
        return []
    level = 10 * np.log10(np.square(hops).mean(axis=1) + 1e-12)
    beat = min(_BEAT, len(level))
    floor, peak = np.percentile(level, 5), np.convolve(level, np.full(beat, 1 / beat), "valid").max()
    loud = level > np.clip(floor + _ABOVE_FLOOR, peak + _DEEPEST, peak + _HIGHEST)
    found: list[tuple[float, float]] = []
    for index in np.flatnonzero(loud):
        start, end = float(index * _HOP / SAMPLE_RATE), float((index + 1) * _HOP / SAMPLE_RATE)
        if found and start - found[-1][1] < _SILENCE:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    if speech:
        found = [(max(a, c), min(b, d)) for a, b in found for c, d in speech if max(a, c) < min(b, d)] or list(speech)
    return [(start, end) for start, end in found if end - start >= _SOUND] or found
