"""The tasks that wait for one worker: by priority, and within it fairly between those whose turns they take.

Fair means start-time fair queueing with tasks of equal cost: somebody's n-th waiting task comes after the (n-1)-th of
everybody else who waits, so one client's thousand items do not stand before another's single one.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools

from contract.messages import Task


class WorkQueue:
    """Ordered, in memory, of one worker. The ledger has the same tasks for good; this is the window onto them."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Task]] = []
        self._turns: dict[str, int] = {}
        self._now = 0
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, task: Task) -> None:
        turn = max(self._now, self._turns.get(task.queued_as, 0)) + 1
        self._turns[task.queued_as] = turn
        heapq.heappush(self._heap, (-task.priority, turn, next(self._order), task))

    def peek(self) -> Task | None:
        return self._heap[0][3] if self._heap else None

    def take(self) -> Task:
        """The next task. Raises: IndexError when there is none."""
        _, turn, _, task = heapq.heappop(self._heap)
        self._now = max(self._now, turn)
        if self._turns.get(task.queued_as) == turn:
            del self._turns[task.queued_as]
        return task

    def remove(self, job: str) -> None:
        """Forget the tasks of a job; who queued them gets the turns back."""
        left = [entry for entry in self._heap if entry[3].job != job]
        if len(left) < len(self._heap):
            heapq.heapify(left)
            self._heap = left
            self._turns = {task.queued_as: turn for _, turn, _, task in sorted(left, key=lambda entry: entry[1])}

    def ended(self, job: str) -> None:
        """The recording that a job's waiting tasks follow is whole."""
        self._heap = [
            (priority, turn, order, dataclasses.replace(task, ended=True) if task.job == job else task)
            for priority, turn, order, task in self._heap
        ]

    def clear(self) -> list[Task]:
        """Take out everything, in order."""
        tasks = [entry[3] for entry in sorted(self._heap)]
        self._heap.clear()
        self._turns.clear()
        return tasks
