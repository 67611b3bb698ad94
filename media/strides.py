"""Cuts a video's packets into strides: what is decoded together, and whether it must be decoded whole.

A stride begins with a keyframe. Where keyframes are at most an interval apart, strides reach from one to the last
within the interval, and looking at their first frames is looking often enough; where they are further apart it is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_ROUNDING = 1.02
"""Encoders round: a keyframe every 30 frames at 29.97 a second is one every 1.001 s."""
_MAX_BYTES = 64 << 20
"""Most bytes of packets that are held until their stride is known."""
_KEYLESS_PACKETS = 300
"""After so many packets without a keyframe, a stream is read from its beginning all the same."""


class Stride(NamedTuple):
    """packets: in the file's order, a keyframe first unless the stride continues one that is decoded whole."""

    packets: list[Any]
    whole: bool


def strides(packets: Iterable[Any], interval: float) -> Iterator[Stride]:
    """interval: seconds. packets: with `is_keyframe`, `pts`, `dts`, `size`, `time_base`."""
    held: list[Any] = []
    size = 0
    inside = False  # a stretch without keyframes, of which every packet is passed on as it comes
    for packet in from_a_keyframe(packets):
        if inside and not packet.is_keyframe:
            yield Stride([packet], True)
            continue
        inside = False
        held.append(packet)
        size += packet.size
        while held and (time_of(packet) - time_of(held[0]) > interval * _ROUNDING or size > _MAX_BYTES):
            stride, held, inside = _first(held, interval)
            size = sum(rest.size for rest in held)
            yield stride
    if held:
        yield Stride(held, True)


def time_of(packet: Any) -> float:
    """When a packet's frame is shown, in seconds of the container's clock."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return float(ticks * packet.time_base)


def _first(held: list[Any], interval: float) -> tuple[Stride, list[Any], bool]:
    """The first stride of some packets, what remains, and whether it goes on beyond them."""
    begin = time_of(held[0])
    keys = [number for number, packet in enumerate(held) if number and packet.is_keyframe]
    near = [number for number in keys if time_of(held[number]) - begin <= interval * _ROUNDING]
    if near:
        return Stride(held[: near[-1]], False), held[near[-1] :], False
    if keys:
        return Stride(held[: keys[0]], True), held[keys[0] :], False
    return Stride(held, True), [], True


def from_a_keyframe(packets: Iterable[Any]) -> Iterator[Any]:
    """Without the empty packet at the end and those that no time is known of."""
    waiting: list[Any] | None = []
    for packet in packets:
        if not packet.size or (packet.pts is None and packet.dts is None):
            continue
        if waiting is not None and not packet.is_keyframe:
            waiting.append(packet)
            if len(waiting) > _KEYLESS_PACKETS:
                yield from waiting
                waiting = None
            continue
        waiting = None
        yield packet
    yield from waiting or ()
