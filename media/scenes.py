"""Where a film shows something new: one picture for each stretch that looks alike, decided on thumbnails alone.

    Look ─▶ like the picture that was kept last? ─▶ yes: nothing new
                                                 └▶ no: when did it turn? ─▶ Scene, once it has settled

A look is compared with the picture that was kept, not with the previous look, so a slow pan adds up until it shows. A
new picture is kept when the next look is like it or a sudden change ends it. A picture amid a cross-fade is not kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from media.pictures import Picture

Thumb = npt.NDArray[np.uint8]
"""uint8, shape (height, width, 3), RGB: a frame scaled to about CELLS cells, each the mean of its pixels."""

CELLS = 96 * 54

_VISIBLE = 28
"""A cell has changed if its colour moved by more than this, of 255. Averaged noise and compression stay below."""
_ALIKE_SHARE = 0.002
_ALIKE_CELLS = 3
"""Up to so many changed cells do not count, because the edges of things flicker."""
_LONGEST_FADE = 4.0
"""Seconds of the longest transition. A picture that changes for longer moves, and its looks are kept as they come."""

_SAME_TIME = 1e-3


class Seen(NamedTuple):
    """A frame. time: seconds from the film's beginning."""

    time: float
    thumb: Thumb


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A frame that is looked at. picture: makes the picture of it, at any time.

    since: the frames after the previous look, this one the last; with None now and then, so that others have a turn.
    Valid until the next look is taken.
    """

    time: float
    thumb: Thumb
    picture: Callable[[], Picture]
    since: Callable[[], Iterable[Seen | None]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A stretch that looks alike, until the next one's `start`. at: when its picture was taken; both in seconds."""

    start: float
    at: float
    picture: Picture


class _Turn(NamedTuple):
    """When one picture became another. sudden: within a frame or two, as cuts are."""

    time: float
    sudden: bool


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _New:
    """Something new that has not settled yet."""

    start: float
    look: Look


def scenes(looks: Iterable[Look | None], known_at: float | None = None) -> Iterator[Scene | None]:
    """The scenes of a film, in order; the first starts at 0. None now and then, so that others have a turn.

    known_at: the `at` of a scene that an earlier run kept, with looks from there on: it is not given again.
    """
    watch = _Watch(known_at)
    for look in looks:
        if look is not None:
            yield from watch.take(look)
        yield None
    yield from watch.end()


class _Watch:
    """What was kept last, and what is new since."""

    def __init__(self, known_at: float | None) -> None:
        self._known_at = known_at
        self._kept: Thumb | None = None
        self._new: _New | None = None

    def take(self, look: Look) -> Iterator[Scene | None]:
        if self._new is not None:
            if alike(self._new.look.thumb, look.thumb):
                yield self._keep(self._new)
            else:
                yield from self._go_on(self._new, look)
        elif self._kept is not None:
            if not alike(self._kept, look.thumb):
                turn = yield from _turn(self._kept, look)
                self._new = _New(turn.time, look)
        elif self._known_at is None:
            self._new = _New(0.0, look)
        elif look.time <= self._known_at + _SAME_TIME:
            self._kept = look.thumb
        else:  # the file cannot be read from where the earlier run stood
            self._new = _New(look.time, look)

    def end(self) -> Iterator[Scene]:
        """The film is over: what is new need not settle."""
        if self._new is not None:
            yield self._keep(self._new)

    def _go_on(self, new: _New, look: Look) -> Iterator[Scene | None]:
        """What was new changes again before it has settled."""
        turn = yield from _turn(new.look.thumb, look)
        if turn.sudden or look.time - new.start > _LONGEST_FADE:
            yield self._keep(new)
            self._new = _New(turn.time, look)
        elif self._kept is not None and alike(self._kept, look.thumb):
            self._new = None  # it came back
        else:
            self._new = dataclasses.replace(new, look=look)

    def _keep(self, new: _New) -> Scene:
        self._kept, self._new = new.look.thumb, None
        return Scene(new.start, new.look.time, new.look.picture())


def alike(one: Thumb, other: Thumb) -> bool:
    """Whether people would say that two frames show the same."""
    changed = int(np.count_nonzero(_changed(one, other)))
    return bool(changed <= max(_ALIKE_CELLS, _ALIKE_SHARE * one.shape[0] * one.shape[1]))


def _turn(old: Thumb, look: Look) -> Generator[None, None, _Turn]:
    """When the frames came nearer to the new look than to the old picture, in the cells that changed between them."""
    mask = _changed(old, look.thumb)
    whole = max(1.0, _distance(old, look.thumb, mask))
    time: float | None = None
    before, step = 0.0, 0.0
    for seen in look.since():
        if seen is None:
            yield None
            continue
        done = _distance(old, seen.thumb, mask) / whole
        step, before = max(step, done - before), done
        if time is None and done >= 0.5:
            time = seen.time
    return _Turn(look.time if time is None else time, step >= 0.5)


def _changed(one: Thumb, other: Thumb) -> npt.NDArray[np.bool_]:
    changed: npt.NDArray[np.bool_] = np.abs(one.astype(np.int16) - other).max(axis=2) > _VISIBLE
    return changed


def _distance(one: Thumb, other: Thumb, mask: npt.NDArray[np.bool_]) -> float:
    return float(np.abs(one[mask].astype(np.int16) - other[mask]).mean())
