"""What workers have said and the disk has not taken yet: those that say more than it takes wait until it has.

Without this the road would hold in memory what a fast worker says in a second and a slow disk writes in ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from pipeline.job import Step

LIMIT_BYTES = 4 * 1024 * 1024
"""Beyond, those who have said the most are not heard until half of it is on the disk."""
SHARE = 4
"""One who has said less than this part of it is heard all the same: a short answer does not wait for a long one."""


class Backlog:
    """hold: told the workers that are not to be heard, whenever these change."""

    def __init__(self, hold: Callable[[Collection[str]], None], limit: int = LIMIT_BYTES) -> None:
        self._hold = hold
        self._limit = limit
        self._said: Counter[str] = Counter()
        self._held: set[str] = set()

    def add(self, step: Step) -> None:
        """A step that is to be written."""
        self._count(step, 1)
        if not self._held and self._said.total() > self._limit:
            self._held = {worker for worker, size in self._said.items() if size > self._limit // SHARE}
            self._hold(self._held)

    def remove(self, step: Step) -> None:
        """A step that is on the disk, or never will be."""
        self._count(step, -1)
        if self._held and self._said.total() <= self._limit // 2:
            self._held = set()
            self._hold(self._held)

    def _count(self, step: Step, sign: int) -> None:
        stages = step.job.plan.by_name
        for out in step.outs:
            if out.seq is not None:
                stage = stages.get(out.stage)
                self._said[str(stage.worker) if stage is not None else ""] += sign * len(out.text)
