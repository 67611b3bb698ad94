"""Runs the tasks of a model's worker, a step at a time; knows no process, so that tests run it in place.

add(task) ─▶ run() up to its first unit ┐
                                        ├─▶ step(): up to `batch` units that go together ─▶ forward() ─▶ run() goes on
units wait, oldest task first ──────────┘

A task that waits for more of its recording stands aside until there is some.

A task that yields a list has several units waiting. Every task that waits gives one to a batch before any gives its
second, so a long list fills batches without holding up the others. It is the turn of the task that was served longest
ago; one that came while a batch was computed goes before those who were in it. Who listens to somebody goes before all
others, but for those that were passed over `PATIENCE` times.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from itertools import chain, zip_longest
from typing import Any

import structlog

from contract.errors import ServiceError
from contract.logs import about
from contract.messages import Task
from workers.base import MORE, AsyncWorker, Run, Worker
from workers.runtime.async_engine import AsyncEngine
from workers.runtime.context import CANCELLED, BaseEngine, Emit, TaskContext

log = structlog.get_logger()

PATIENCE = 6
"""Steps that a task lets live ones go first: on a machine that many listeners keep busy others go on slowly."""


@dataclasses.dataclass(slots=True, eq=False)
class _Open:
    """A task under way: its generator stands at `units`, a list where it asked for several at once."""

    task: Task
    ctx: TaskContext
    run: Run
    units: list[Any] = dataclasses.field(default_factory=list)
    results: list[Any] = dataclasses.field(default_factory=list)
    waiting: deque[int] = dataclasses.field(default_factory=deque)
    """Which of the units have no result yet."""
    several: bool = False
    turn: float = 0.0
    """The number of the step that served it last; of one that came since, just less than the latest."""
    news: bool = False
    """Whether its recording has grown since it last waited for that."""

    @property
    def waits(self) -> bool:
        """Whether it has no unit, since it waits for more of its recording."""
        return not self.units

    def stand_at(self, asked: Any) -> None:
        self.several = isinstance(asked, list)
        self.units = [] if asked is MORE else asked if self.several else [asked]
        if not self.units and asked is not MORE:
            raise ValueError("a task must yield at least one unit")
        self.results = [None] * len(self.units)
        self.waiting = deque(range(len(self.units)))


class Engine(BaseEngine):
    """Units of the open tasks, in batches."""

    def __init__(self, worker: Worker, emit: Emit) -> None:
        super().__init__(worker, emit)
        self._open: list[_Open] = []
        self._steps = 0
        self._waiting: list[_Open] = []

    @property
    def busy(self) -> bool:
        return bool(self._open)

    def add(self, task: Task) -> None:
        """Take a task and bring it to its first unit."""
        ctx = self._context(task)
        try:
            run = self._worker.run(self._params(task), ctx)
        except ServiceError as exc:
            self._fail(task, exc)
            return
        self._go_on(_Open(task, ctx, run, turn=self._steps - 0.5))

    def more(self, job: str, ended: bool) -> None:
        for task in self._of(job):
            task.ctx.ended |= ended
            if task.waits:
                self._waiting.remove(task)
                task.turn = self._steps - 0.5
                self._go_on(task)
            else:
                task.news = True

    def _of(self, job: str) -> list[_Open]:
        return [task for task in (*self._open, *self._waiting) if task.task.job == job]

    def cancel(self, job: str) -> None:
        """Stop the tasks of a job between two of their steps."""
        for task in self._of(job):
            (self._waiting if task.waits else self._open).remove(task)
            task.ctx.cancelled = True
            with about(job, task.task.params):
                try:
                    task.run.close()
                except Exception:
                    log.exception("task_not_closed", worker=self._worker.name)
            self._end(task.task, "lost", CANCELLED)

    def step(self) -> None:
        """One batch: the oldest waiting unit and those that go with it, of the same and other tasks."""
        batch = self._next_batch()
        self._steps += 1
        for (task, index), result in zip(batch, self._forward(batch), strict=True):
            task.results[index] = result
            task.waiting.remove(index)
        for task in dict.fromkeys(task for task, _ in batch):
            task.turn = self._steps
            if not task.waiting:
                self._open.remove(task)
                self._go_on(task)

    def _next_batch(self) -> list[tuple[_Open, int]]:
        waiting = sorted(self._open, key=self._place)
        oldest = waiting[0]
        key = self._worker.key(oldest.units[oldest.waiting[0]])
        fitting = [
            [(task, index) for index in task.waiting if self._worker.key(task.units[index]) == key] for task in waiting
        ]
        rounds = chain.from_iterable(zip_longest(*fitting))
        batch: list[tuple[_Open, int]] = []
        units: list[Any] = []
        for task, index in (pair for pair in rounds if pair):
            unit = task.units[index]
            if len(batch) < self._worker.batch and (not batch or self._worker.fits(units, unit)):
                batch.append((task, index))
                units.append(unit)
        return batch

    def _place(self, task: _Open) -> tuple[bool, float]:
        """Lower is earlier."""
        first = task.task.live or self._steps - task.turn > PATIENCE
        return not first, task.turn

    def _forward(self, batch: list[tuple[_Open, int]]) -> list[Any]:
        """Results in order; an exception stands in the place of the unit that it concerns."""
        self.step_started = time.monotonic()
        try:
            return self._worker.forward([task.units[index] for task, index in batch])
        except Exception as exc:
            if len(batch) == 1:
                return [exc]
            with about(None, [task.task.params for task, _ in batch]):
                log.exception("batch_failed", worker=self._worker.name, size=len(batch))
            return [result for unit in batch for result in self._forward([unit])]  # find the guilty one
        finally:
            self.step_started = None

    def _go_on(self, task: _Open) -> None:
        """Bring a task to what it yields next, or to its end."""
        with about(task.task.job, task.task.params):
            self._resume(task)

    def _resume(self, task: _Open) -> None:
        self.step_started = time.monotonic()
        try:
            task.stand_at(_resumed(task))
            while task.waits and task.news:  # it grew while the task was at work
                task.news = False
                task.stand_at(task.run.send(None))
            (self._waiting if task.waits else self._open).append(task)
        except StopIteration as stop:
            self._end(task.task, "done", stop.value)
        except Exception as exc:  # noqa: BLE001 - it is this task's, and logged there
            self._fail(task.task, exc)
        finally:
            self.step_started = None


def _resumed(task: _Open) -> Any:
    """What the task yields after it was sent its results, or the first exception among them."""
    if task.waits:
        return next(task.run)
    failure = next((result for result in task.results if isinstance(result, BaseException)), None)
    if failure is not None:
        return task.run.throw(failure)
    return task.run.send(task.results if task.several else task.results[0])


def engine_of(worker: Worker, emit: Emit) -> BaseEngine:
    """The engine that a worker's kind needs."""
    return AsyncEngine(worker, emit) if isinstance(worker, AsyncWorker) else Engine(worker, emit)
