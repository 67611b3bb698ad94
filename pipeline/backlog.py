"""What workers have said and the disk has not taken yet: those that say more than it takes wait until it has.

Without this the road would hold in memory what a fast worker says in a second and a slow disk writes in ten, or a full
one never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import orjson

from pipeline.job import Step

LIMIT_BYTES = 16 * 1024 * 1024
"""Beyond, those who have said the most are not heard until half of it is on the disk."""
SHARE = 4
"""One who has said less than this part of it is heard all the same: a short answer does not wait for a long one."""
OVERHEAD_BYTES = 2048
"""What an event, or a run's change, takes in memory beside its text until it is written."""


class Backlog:
    """hold: told the workers that are not to be heard, whenever these change."""

    def __init__(self, hold: Callable[[Collection[str]], None], limit: int = LIMIT_BYTES) -> None:
        self._hold = hold
        self._limit = limit
        self._said: Counter[str] = Counter()
        self._weights: dict[int, Counter[str]] = {}
        self._held: frozenset[str] = frozenset()

    def add(self, step: Step) -> None:
        """A step that is to be written."""
        said = self._weights[id(step)] = weight(step)
        self._said.update(said)
        if self._said.total() > self._limit:
            loud = {worker for worker, size in self._said.items() if size > self._limit // SHARE}
            self._set_held(self._held | loud)

    def remove(self, step: Step) -> None:
        """A step that is on the disk, or never will be."""
        self._said.subtract(self._weights.pop(id(step)))
        if self._said.total() <= self._limit // 2:
            self._set_held(frozenset())

    def _set_held(self, workers: frozenset[str]) -> None:
        if workers != self._held:
            self._held = workers
            self._hold(workers)


def weight(step: Step) -> Counter[str]:
    """Bytes that a step holds until it is written, by the worker that said them."""
    stages = step.job.plan.by_name
    found: Counter[str] = Counter()

    def count(stage_name: str, size: int) -> None:
        stage = stages.get(stage_name)
        found[str(stage.worker) if stage is not None else ""] += OVERHEAD_BYTES + size

    for out in step.outs:
        if out.seq is not None:
            count(out.stage, len(out.text))
    for key in step.changed:
        run = step.job.run(key)
        if run is not None:
            count(key[0], _size(run.checkpoint) + _size(run.result))
    return found


def _size(value: Any) -> int:
    return 0 if value is None else len(orjson.dumps(value))
