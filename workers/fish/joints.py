"""The sound of pieces as one stream: no clicks, no long silences between, evenly loud, the same however it comes in.

    push(block) ─▶ hops ─▶ silence cut short ─▶ gain ─▶ limiter ─▶ held back while it may be the end ─▶ samples
    end_piece(pause) ─▶ what was held back, its last silence cut and its last samples faded, then the pause

A piece is computed in hops of 10 ms from its own beginning, whatever blocks it comes in, and nothing else is looked at:
no clock, no chance. So the same pieces give the same samples again. Of a piece that speaks, at most a hop not yet full
and the one before it, which may have to be faded, are held back; of one that is silent, half a second.

The level is the mean power of the voice alone (hops near the loudest), of the last seconds; a piece soon has its own.
The gain leads it to -20 dBFS, but so slowly that it is not heard to move.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]

HOP = 0.01
"""Seconds computed at once."""
_FADE_IN, _FADE_OUT = 0.005, HOP
"""Seconds. A fade out is no longer than a hop: that is what is held back for it."""

_MARGIN = round(0.05 / HOP)
"""Hops of silence that stay before and after a piece's voice."""
_LONGEST_SILENCE = round(0.5 / HOP)
"""Hops of silence that stay within a piece: it is held back, for it may be the end."""
_SILENCE = -50.0
"""dB, against the voice's level."""

TARGET = -20.0
"""dBFS: the level of the voice."""
_GAINS = 9.0
"""dB, up and down."""
_GAIN_STEP = 6.0 * HOP
"""dB a hop."""
_VOICE = -20.0
"""dB, against the loudest hop of the piece: less is a pause or a breath, and says nothing about the level."""
_ONSET = -6.0
"""dB, against the level so far: the loudest hop expected at least, so that a soft beginning does not raise the gain."""
_FAINTEST_VOICE = -60.0
"""dBFS: no voice is fainter."""
_KNOWN, _REMEMBERED = round(0.15 / HOP), round(3.0 / HOP)
"""Hops of voice that the level so far counts for when a piece begins, and that it is the mean of at most."""

_CEILING, _KNEE = 0.89, 0.63
"""What no sample passes, and from where on peaks are bent: just below -1 and -4 dBFS."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loudness:
    """What a stream has come to. level: dBFS, of the voice as it comes in. gain: dB."""

    level: float
    gain: float


class Leveller:
    """The gain of one stream, hop by hop."""

    def __init__(self) -> None:
        self._power = _power(TARGET)
        self._gain = 0.0
        self.begin_piece()

    @property
    def loudness(self) -> Loudness:
        return Loudness(_decibels(self._power), self._gain)

    def begin_piece(self) -> None:
        self._loudest = max(_power(_FAINTEST_VOICE - _VOICE), self._power * _power(_ONSET))
        self._heard = _KNOWN

    def silent(self, power: float) -> bool:
        """Whether a hop of this mean power holds no voice."""
        return power < self._power * _power(_SILENCE)

    def __call__(self, hop: Audio, power: float) -> Audio:
        """The hop as loud as it should be, limited."""
        before = self._gain
        self._loudest = max(self._loudest, power)
        if power >= self._loudest * _power(_VOICE):
            self._heard = min(self._heard + 1, _REMEMBERED)
            self._power += (power - self._power) / self._heard
            wanted = min(max(TARGET - _decibels(self._power), -_GAINS), _GAINS)
            self._gain += min(max(wanted - before, -_GAIN_STEP), _GAIN_STEP)
        start, end = (10 ** (gain / 20) for gain in (before, self._gain))
        gains = np.linspace(start, end, len(hop), dtype=np.float32) if start != end else np.float32(start)
        return _limited(hop * gains)


class Joiner:
    """One stream. sample_rate: Hz.

    Samples are float32, mono, any block of them (n,), in and out; what goes out is within ±0.89 (-1 dBFS). A constant
    offset stays, and is not taken for sound. Not thread-safe.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._hop = round(sample_rate * HOP)
        self._fade_in, self._fade_out = (_ramp(round(sample_rate * fade)) for fade in (_FADE_IN, _FADE_OUT))
        self._leveller = Leveller()
        self._rest: Audio
        self._begin_piece()

    @property
    def loudness(self) -> Loudness:
        """By now."""
        return self._leveller.loudness

    def push(self, block: Audio) -> Audio:
        """The next sound of this piece → what can be heard of the piece by then; none while it is silent."""
        finite = np.nan_to_num(block.astype(np.float32), copy=False, posinf=0.0, neginf=0.0)  # half precision overflows
        sound = np.concatenate([self._rest, finite])
        whole = len(sound) // self._hop * self._hop
        self._rest = sound[whole:]
        return _concatenated([out for hop in sound[:whole].reshape(-1, self._hop) for out in self._next(hop)])

    def end_piece(self, pause: float) -> Audio:
        """What was held back of this piece, faded out, then `pause` seconds of silence; no sound of a mute piece."""
        last = self._next(self._rest) if len(self._rest) else []
        end = _concatenated([*last, *self._held[: 1 + _MARGIN]])
        faded = min(len(end), len(self._fade_out))
        end[len(end) - faded :] *= self._fade_out[:faded][::-1]
        self._begin_piece()
        return _concatenated([end, np.zeros(round(pause * self._sample_rate), dtype=np.float32)])

    def finish(self) -> Audio:
        """The end of the stream: of the piece that was not ended, if there is one."""
        return self.end_piece(0.0)

    def _begin_piece(self) -> None:
        self._rest = np.empty(0, dtype=np.float32)
        self._before: collections.deque[tuple[Audio, float]] = collections.deque(maxlen=_MARGIN)
        self._held: list[Audio] = []
        self._leveller.begin_piece()

    def _next(self, hop: Audio) -> list[Audio]:
        """What goes out after this hop. Held back is the last hop of voice, with the silence since then."""
        power = min(float(np.var(hop, dtype=np.float64)), 1.0)
        silent = self._leveller.silent(power)
        if silent and not self._held:
            self._before.append((hop, power))
            return []
        if not self._held:
            begun = _concatenated([self._leveller(*quiet) for quiet in self._before] + [self._leveller(hop, power)])
            faded = min(len(begun), len(self._fade_in))
            begun[:faded] *= self._fade_in[:faded]
            self._held = [begun[-len(hop) :]]
            return [begun[: -len(hop)]]
        levelled = self._leveller(hop, power)
        if silent:
            self._held.append(levelled)
            if len(self._held) > 1 + _LONGEST_SILENCE:
                del self._held[_LONGEST_SILENCE // 2]  # its middle: a voice dies away before, and rises after
            return []
        out, self._held = self._held, [levelled]
        return out


def _power(decibels: float) -> float:
    return float(10 ** (decibels / 10))


def _decibels(power: float) -> float:
    return 10 * math.log10(max(power, 1e-12))


def _ramp(length: int) -> Audio:
    """From 0 to 1, (length,), flat at both ends: half a period of a cosine."""
    steps = (np.arange(length) + 0.5) / length
    return (0.5 - 0.5 * np.cos(np.pi * steps)).astype(np.float32)


def _limited(sound: Audio) -> Audio:
    """Peaks above the knee bent towards the ceiling, each sample by itself: no delay."""
    size = np.abs(sound)
    if size.max() <= _KNEE:
        return sound
    room = _CEILING - _KNEE
    bent = _KNEE + room * np.tanh(np.maximum(size - _KNEE, 0.0) / room)
    return np.copysign(np.minimum(size, bent), sound).astype(np.float32)


def _concatenated(sounds: Sequence[Audio]) -> Audio:
    return np.concatenate([np.empty(0, dtype=np.float32), *sounds])
