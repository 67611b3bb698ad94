"""Many channels as one, without what is said in opposite phase being lost.

    frames ─▶ resampler ─▶ (samples, channels) ─▶ windows of 0.25 s ─▶ channel after channel is added ─▶ mono
                                                                        └ inverted from the window on in which adding
                                                                          it as it is would cancel most of the sound

Averaging keeps two speakers who have a channel each, and loses all where one channel is the other's negative, as a
wrongly wired microphone makes it. Every window decides by its own energy, and changes a sign only for a gain of several
decibels, so a sign seldom changes and then gradually; what comes out does not depend on how the frames were cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from media.encode import Samples, as_int16

_WINDOW_SECONDS = 0.25
_TURN_SECONDS = 0.02
"""Seconds over which a sign changes, so that no click is heard."""
_CANCELLED = 0.2
"""A channel is inverted if adding it as it is would leave less than this share of all channels' energy."""
_WEIGHTS = {"FL": 1.0, "FR": 1.0, "FC": 2**0.5, "LFE": 0.0, "LFE2": 0.0, "NONE": 1.0}
"""As FFmpeg mixes for one loudspeaker (ITU-R BS.775): the voice's channel in front, without the one for the bass."""
_BEHIND = 0.5**0.5
"""Weight of the channels beside and behind the listener."""


class Downmix:
    """Frames of one rate, format and layout → mono samples at `rate` Hz. frame: one of them."""

    def __init__(self, frame: Any, rate: int) -> None:
        names = [channel.name for channel in frame.layout.channels]
        weights = np.array([_WEIGHTS.get(name, _BEHIND) for name in names], np.float32)
        self._weights = weights / weights.sum() if weights.any() else np.full(len(names), 1 / len(names), np.float32)
        self._signs: list[float] = [1.0] * len(names)
        self._window = round(_WINDOW_SECONDS * rate)
        self._ramp = np.linspace(0, 1, round(_TURN_SECONDS * rate), dtype=np.float32)
        self._begun = False
        self._waiting: list[npt.NDArray[np.float32]] = []
        self.held = 0
        """Samples that wait for the rest of their window."""
        # Many channels interleaved: PyAV cannot read more than eight planes.
        form = "s16" if len(names) == 1 and not frame.format.name.startswith(("flt", "dbl")) else "flt"
        layout = "mono" if len(names) == 1 else frame.layout
        self._resampler = av.AudioResampler(form, layout, rate)

    def heard(self, frame: Any) -> Iterator[Samples]:
        """Take in the next frame, or None for the end of what the resampler holds."""
        if frame is not None:
            frame.pts = None  # the clock is kept elsewhere
        parts = [part.to_ndarray().reshape(-1, len(self._weights)) for part in self._resampler.resample(frame)]
        if len(self._weights) == 1:
            yield from (even(part[:, 0]) for part in parts)
            return
        self._waiting += parts
        self.held += sum(map(len, parts))
        if self.held >= self._window:
            waiting = np.concatenate(self._waiting)
            self.held %= self._window
            whole = len(waiting) - self.held
            self._waiting = [waiting[whole:]]
            yield from (self._mixed(waiting[at : at + self._window]) for at in range(0, whole, self._window))

    def rest(self) -> Iterator[Samples]:
        """What is left at the end."""
        yield from self.heard(None)
        if self.held:
            yield self._mixed(np.concatenate(self._waiting))
        self._waiting, self.held = [], 0

    def _mixed(self, window: npt.NDArray[np.float32]) -> Samples:
        """window: (samples, channels)."""
        if not np.isfinite(window).all():
            window = np.nan_to_num(window, posinf=0, neginf=0)
        mix = np.zeros(len(window), np.float32)
        for number, weight in enumerate(self._weights):
            channel = weight * window[:, number]
            before = self._signs[number]
            product, both = float(np.dot(mix, channel)), _energy(mix) + _energy(channel)
            if both + 2 * before * product < _CANCELLED * both:
                self._signs[number] = -before
            mix += self._turned(before, self._signs[number], channel)
        self._begun = True
        return as_int16(mix)

    def _turned(self, before: float, after: float, channel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if before == after or not self._begun:
            return after * channel
        turned: npt.NDArray[np.float32] = after * channel
        ramp = self._ramp[: len(channel)]
        turned[: len(ramp)] = (before + (after - before) * ramp) * channel[: len(ramp)]
        return turned


def even(samples: npt.NDArray[Any]) -> Samples:
    """16-bit samples; floats that are no numbers are silence, and those beyond full scale are full scale."""
    if samples.dtype.kind != "f":
        return samples.astype(np.int16, copy=False)
    return as_int16(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0))


def _energy(samples: npt.NDArray[np.float32]) -> float:
    return float(np.dot(samples, samples))
