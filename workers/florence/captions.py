"""The growing list of a film's segments: captions of scenes in, segments, partials, checkpoints and the result out.

    scene + caption ─▶ the same as before? ─▶ yes: the segment goes on
                                           └▶ no: the segment ends ─▶ partial ─▶ checkpoint

A later attempt gets the last checkpoint and the segments that were partials, and captions no finished scene again.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from workers.base import Context


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a film is. segments, captions: how many there are; at: seconds at which the last captioned picture is.

    start, caption: of the segment that goes on.
    """

    segments: int = 0
    captions: int = 0
    at: float | None = None
    start: float = 0.0
    caption: dict[str, Any] | None = None


class Captions:
    """One film's segments so far, going on from the context's checkpoint if there is one."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._checkpoint = Checkpoint(**ctx.checkpoint_data) if ctx.checkpoint_data else Checkpoint()
        self._segments: list[dict[str, Any]] = list(ctx.finished[: self._checkpoint.segments])
        self._began, self._began_at = time.monotonic(), self._checkpoint.at or 0.0

    @property
    def at(self) -> float | None:
        """Where the last captioned picture was taken; None before the first."""
        return self._checkpoint.at

    @property
    def count(self) -> int:
        """How many pictures were captioned."""
        return self._checkpoint.captions

    def add(self, start: float, at: float, caption: dict[str, Any]) -> None:
        """start, at: of the scene, in seconds. caption: ``{"text"}``, with ``regions`` or without."""
        state = dataclasses.replace(self._checkpoint, captions=self._checkpoint.captions + 1, at=at)
        if state.caption is None:
            state = dataclasses.replace(state, caption=caption)
        elif caption["text"] != state.caption["text"]:
            self._finish(start)
            state = dataclasses.replace(state, segments=len(self._segments), start=start, caption=caption)
        self._checkpoint = state
        self._ctx.checkpoint(dataclasses.asdict(state))

    def progress(self, position: float, duration: float | None) -> None:
        """position: how far the film was looked through."""
        if not duration:
            self._ctx.progress(None, time=round(position, 1))
            return
        pace = (time.monotonic() - self._began) / max(0.1, position - self._began_at)
        left = max(0.0, duration - position)
        self._ctx.progress(min(1.0, position / duration), left * pace, time=round(position, 1))

    def result(self, duration: float) -> list[dict[str, Any]]:
        """Every segment; together they cover [0, duration]."""
        self._finish(max(duration, self._checkpoint.start))
        return self._segments

    def _finish(self, end: float) -> None:
        assert self._checkpoint.caption is not None
        segment = {"start": round(self._checkpoint.start, 3), "end": round(end, 3), **self._checkpoint.caption}
        self._ctx.partial(len(self._segments), segment)
        self._segments.append(segment)
