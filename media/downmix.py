"""Many channels as one, without what is said in opposite phase being lost.

    frames ─▶ (samples, channels) ─▶ windows of 0.25 s ─▶ channel after channel is added ─▶ resampler ─▶ mono
                                                           └ inverted from the window on in which adding it as it is
                                                             would cancel most of what is there

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

_WINDOW_SECONDS = 0.25
_MOST_SAMPLES = 1 << 20
"""Of all channels in a window: 64 channels at 768 kHz are held for less than 0.25 s."""
_TURN_SECONDS = 0.02
"""In which a sign changes: no click is heard."""
_CANCELLED = 0.2
"""A channel is inverted if less of the energy, its own and the other channels', would be left."""
_WEIGHTS = {"FL": 1.0, "FR": 1.0, "FC": 2**0.5, "LFE": 0.0, "LFE2": 0.0, "NONE": 1.0}
"""As FFmpeg mixes for one loudspeaker (ITU-R BS.775): the voice's channel in front, without the one for the bass."""
_BEHIND = 0.5**0.5
"""Of the channels beside and behind the listener."""

Mono = npt.NDArray[np.int16]


class Downmix:
    """Frames of one rate, format and layout → mono samples at `rate` Hz. frame: one of them."""

    def __init__(self, frame: Any, rate: int) -> None:
        self._rate: int = frame.sample_rate
        names = [channel.name for channel in frame.layout.channels]
        weights = np.array([_WEIGHTS.get(name, _BEHIND) for name in names], np.float32)
        self._weights = weights / weights.sum() if weights.any() else np.full(len(names), 1 / len(names), np.float32)
        self._signs: list[float] = [1.0] * len(names)
        self._window = min(round(_WINDOW_SECONDS * self._rate), _MOST_SAMPLES // len(names))
        self._ramp = np.linspace(0, 1, max(1, round(_TURN_SECONDS * self._rate)), dtype=np.float32)[: self._window]
        self._begun = False
        self._held: list[npt.NDArray[np.float32]] = []
        self._samples = 0
        # Interleaved: PyAV cannot read more than eight planes.
        self._floats = av.AudioResampler("flt", frame.layout, self._rate) if len(names) > 1 else None
        self._resampler = av.AudioResampler("s16", "mono", rate)

    @property
    def held(self) -> float:
        """Seconds of sound that wait for the rest of their window."""
        return self._samples / self._rate

    def heard(self, frame: Any) -> Iterator[Mono]:
        """Take in the next frame."""
        frame.pts = None  # the clock is kept elsewhere
        if self._floats is None:
            yield from self._resampled(frame)
            return
        for part in self._floats.resample(frame):
            self._held.append(part.to_ndarray().reshape(-1, len(self._weights)))
            self._samples += part.samples
        if self._samples >= self._window:
            held = np.concatenate(self._held)
            whole = len(held) - len(held) % self._window
            for start in range(0, whole, self._window):
                yield from self._mixed(held[start : start + self._window])
            self._held, self._samples = [held[whole:]], len(held) - whole

    def rest(self) -> Iterator[Mono]:
        """What is left at the end."""
        if self._samples:
            yield from self._mixed(np.concatenate(self._held))
        self._held, self._samples = [], 0
        yield from self._resampled(None)

    def _mixed(self, window: npt.NDArray[np.float32]) -> Iterator[Mono]:
        """window: (samples, channels)."""
        channels = np.nan_to_num(window).clip(-1, 1).T * self._weights[:, np.newaxis]
        mix = np.zeros(len(window), np.float32)
        for number, channel in enumerate(channels):
            before = self._signs[number]
            if _energy(mix + before * channel) < _CANCELLED * (_energy(mix) + _energy(channel)):
                self._signs[number] = -before
            mix += self._turned(before, self._signs[number], channel)
        self._begun = True
        frame = av.AudioFrame.from_ndarray(mix[np.newaxis], "flt", "mono")
        frame.sample_rate = self._rate
        yield from self._resampled(frame)

    def _turned(self, before: float, after: float, channel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        turned: npt.NDArray[np.float32] = after * channel
        if before != after and self._begun:
            ramp = self._ramp[: len(channel)]
            turned[: len(ramp)] = (before + (after - before) * ramp) * channel[: len(ramp)]
        return turned

    def _resampled(self, frame: Any) -> Iterator[Mono]:
        for part in self._resampler.resample(frame):
            yield part.to_ndarray().reshape(-1)


def _energy(samples: npt.NDArray[np.float32]) -> float:
    return float(np.dot(samples, samples))
