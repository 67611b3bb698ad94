"""Channels that FFmpeg has no rule to mix: of microphone arrays, of a recorder's many tracks, of ambisonics.

FFmpeg's resampler knows where loudspeakers stand, and what each is worth in a mix. A file that only numbers its
channels, 9 of them or 25, it refuses; there all channels count alike.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

_SAMPLES = 64
"""Of silence, to ask the resampler with."""


@functools.lru_cache(64)
def has_rule(layout: str, rate: int) -> bool:
    """Whether FFmpeg can mix these channels to one. layout: FFmpeg's name of it."""
    silence = av.AudioFrame("s16", layout, _SAMPLES)
    silence.sample_rate = rate
    try:
        av.AudioResampler("s16", "mono", rate).resample(silence)
    except av.FFmpegError:
        return False
    return True


class Mixer:
    """Gives frames that the resampler takes: as they come, or, of channels that it cannot mix, one of all of them."""

    def __init__(self) -> None:
        self._shape: tuple[str, str, int] | None = None
        self._graph: Any = None

    def frames(self, frame: Any) -> Iterator[Any]:
        """frame: of audio. Raises: av.FFmpegError."""
        if has_rule(frame.layout.name, frame.sample_rate):
            yield frame
            return
        shape = (frame.layout.name, frame.format.name, frame.sample_rate)
        if shape != self._shape:
            self._shape, self._graph = shape, _even(*shape, len(frame.layout.channels))
        frame.pts = None
        self._graph.push(frame)
        yield self._graph.pull()  # nothing is held back: a frame goes in, and one comes out


def _even(layout: str, sample_format: str, rate: int, channels: int) -> Any:
    """A filter graph that mixes all channels alike. Of ambisonics the first is the sound from everywhere."""
    parts = [f"c{number}" for number in range(1 if layout.startswith("ambisonic") else channels)]
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, format=sample_format, layout=layout, time_base=Fraction(1, rate))
    mixed, sink = graph.add("pan", "mono|c0<" + "+".join(parts)), graph.add("abuffersink")
    source.link_to(mixed)
    mixed.link_to(sink)
    graph.configure()
    return graph
