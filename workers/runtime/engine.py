"""Runs the tasks of a model's worker; knows no process, so that tests run it in place.

add(task) ─▶ lane: run() up to what it waits for ─┐
                ▲                                 ├─▶ step(): up to `batch` units that go together ─▶ forward()
                └── the answers are all there ◀───┴────────────────────────────────────────────────────┘
units wait, oldest task first

The main thread computes; what tasks do in between is done in the lane (`runtime.lane`), a slice of a task at a time. A
task asks for units by yielding them, or ahead by `Context.ask`. One that waits for more of its recording stands aside
until there is some.

Every task that waits gives one unit to a batch before any gives its second, so a long list fills batches without
holding up the others. It is the turn of the task that was served longest ago; one that came while a batch was computed
goes before those who were in it. Who listens to somebody goes before all others, but for those that were passed over
`PATIENCE` times.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any

import structlog

from contract.logs import about
from contract.messages import Task
from workers.base import MORE, TURN, Answer, AsyncWorker, Run, Worker
from workers.runtime.async_engine import AsyncEngine
from workers.runtime.context import CANCELLED, BaseEngine, Emit, TaskContext
from workers.runtime.lane import Lane

log = structlog.get_logger()

PATIENCE = 6
"""Steps that a task lets live ones go first: on a machine that many listeners keep busy others go on slowly."""


@dataclasses.dataclass(slots=True, eq=False)
class _Open:
    """A task under way. run: its generator, once it has begun."""

    task: Task
    ctx: TaskContext
    turn: float
    """The number of the step that served it last; of one that came since, just less than the latest."""
    run: Run | None = None
    asked: list[Answer] = dataclasses.field(default_factory=list)
    """Whose units wait for a batch, in order."""
    awaited: list[Answer] = dataclasses.field(default_factory=list)
    """Those that its generator waits for; none where it waits for its turn or its recording."""
    several: bool = False
    due: bool = True
    """Whether a slice of it is under way, or is to be."""
    running: bool = False
    """Whether one is under way."""
    over: bool = False
    waits: bool = False
    """Whether it waits for more of its recording."""
    news: bool = False
    """Whether that has grown since it last waited for it."""

    def answered(self) -> bool:
        return all(answer.done for answer in self.awaited)


class Engine(BaseEngine):
    """Units of the open tasks, in batches.

    threads: of the lane; with none everything is done by who calls. wake: called when there may be a step to do.
    """

    def __init__(self, worker: Worker, emit: Emit, threads: int = 0, wake: Callable[[], None] = lambda: None) -> None:
        super().__init__(worker, emit)
        self._open: list[_Open] = []
        self._steps = 0
        self._lane = Lane(threads, wake)
        self._wake = wake
        self._lock = threading.Lock()
        self._began: dict[object, float] = {}

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do at once."""
        return self._lane.waits_for_help or any(task.asked for task in list(self._open))

    @property
    def step_started(self) -> float | None:
        return min(list(self._began.values()), default=None)

    def add(self, task: Task) -> None:
        """Take a task and bring it to its first unit."""
        opened = _Open(task, self._context(task), self._steps - 0.5)
        opened.ctx.asks = lambda unit: self._ask(opened, unit)
        with self._lock:
            self._open.append(opened)
            self._put(opened)
        self._lane.help()

    def more(self, job: str, ended: bool) -> None:
        with self._lock:
            for task in self._of(job):
                task.ctx.ended |= ended
                if task.waits:
                    task.turn = self._steps - 0.5
                    self._put(task)
                else:
                    task.news = True
        self._lane.help()

    def cancel(self, job: str) -> None:
        """Stop the tasks of a job between two of their steps."""
        with self._lock:
            for task in self._of(job):
                task.ctx.cancelled = True
                task.asked.clear()
                if not task.running:
                    self._put(task)  # before the slice that it may wait for, which then has nothing to do
        self._lane.help()

    def step(self) -> None:
        """One batch: the oldest waiting unit and those that go with it, of the same and other tasks."""
        if batch := self._next_batch():
            self._steps += 1
            results = self._forward([answer.unit for _, answer in batch], [task for task, _ in batch])
            self._answer(batch, results)
        self._lane.help()

    # Batches.

    def _next_batch(self) -> list[tuple[_Open, Answer]]:
        """Taken out of what waits. Only this thread takes, others only add."""
        waiting = sorted((task for task in list(self._open) if task.asked), key=self._place)
        if not waiting:
            return []
        key = self._worker.key(waiting[0].asked[0].unit)
        fitting = [
            [(task, answer) for answer in list(task.asked) if self._worker.key(answer.unit) == key] for task in waiting
        ]
        rounds = chain.from_iterable(zip_longest(*fitting))
        batch: list[tuple[_Open, Answer]] = []
        units: list[Any] = []
        for task, answer in (pair for pair in rounds if pair):
            if len(batch) < self._worker.batch and (not batch or self._worker.fits(units, answer.unit)):
                batch.append((task, answer))
                units.append(answer.unit)
        with self._lock:
            for task, answer in batch:
                task.asked.remove(answer)
        return batch

    def _place(self, task: _Open) -> tuple[bool, float]:
        """Lower is earlier."""
        first = task.task.live or self._steps - task.turn > PATIENCE
        return not first, task.turn

    def _forward(self, units: list[Any], tasks: list[_Open]) -> list[Any]:
        """Results in order; an exception stands in the place of the unit that it concerns."""
        try:
            with self._timed() as began:
                results = self._worker.forward(units)
            self.forward_seconds += time.monotonic() - began
            return results
        except Exception as exc:
            if len(units) == 1:
                return [exc]
            with about(None, [task.task.params for task in tasks]):
                log.exception("batch_failed", worker=self._worker.name, size=len(units))
            alone = (self._forward([unit], [task]) for unit, task in zip(units, tasks, strict=True))
            return [result for results in alone for result in results]  # find the guilty one

    def _answer(self, batch: list[tuple[_Open, Answer]], results: list[Any]) -> None:
        with self._lock:
            for (task, answer), result in zip(batch, results, strict=True):
                answer.result, answer.done = result, True
                task.turn = self._steps
            for task in dict.fromkeys(task for task, _ in batch):
                if task.awaited and not task.due and task.answered():
                    self._put(task)

    # Slices.

    def _ask(self, task: _Open, unit: Any) -> Answer:
        answer = Answer(unit)
        with self._lock:
            if not task.ctx.cancelled:
                task.asked.append(answer)
        self._wake()
        return answer

    def _put(self, task: _Open) -> None:
        """Have the next slice of a task done. Call it with the lock held."""
        task.due, task.waits = True, False
        self._lane.put(lambda: self._slice(task), first=task.task.live or task.ctx.cancelled)

    def _of(self, job: str) -> list[_Open]:
        return [task for task in self._open if task.task.job == job]

    def _slice(self, task: _Open) -> None:
        """Bring a task to what it waits for next, or to its end."""
        with self._lock:
            if task.running or task.over:
                return
            task.running = True
        with about(task.task.job, task.task.params), self._timed():
            try:
                if task.ctx.cancelled:
                    self._close(task)
                else:
                    self._stand(task, self._resumed(task))
            except StopIteration as stop:
                self._leave(task)
                self._end(task.task, "done", stop.value)
            except Exception as exc:  # noqa: BLE001 - it is this task's, and logged there
                self._leave(task)
                self._fail(task.task, exc)
                exc.__traceback__ = None  # and so what the task held: of a GPU, for one

    def _resumed(self, task: _Open) -> Any:
        """What the task yields after it was sent its results, or the first exception among them."""
        if task.run is None:
            task.run = self._worker.run(self._params(task.task), task.ctx)
            return next(task.run)
        results = [answer.result for answer in task.awaited]
        task.awaited = []
        failure = next((result for result in results if isinstance(result, BaseException)), None)
        if failure is not None:
            try:
                return task.run.throw(failure)
            finally:
                del failure, results
        return task.run.send(results if task.several else results[0] if results else None)

    def _stand(self, task: _Open, asked: Any) -> None:
        """What the task waits for now. Raises: ValueError, where it asks for nothing."""
        task.several = isinstance(asked, list)
        wanted = [] if asked is MORE or asked is TURN else asked if task.several else [asked]
        if task.several and not wanted:
            raise ValueError("a task must yield at least one unit")
        answers = [one if isinstance(one, Answer) else self._ask(task, one) for one in wanted]
        with self._lock:
            task.awaited = answers
            task.due = task.running = False
            task.waits = asked is MORE and not task.news
            task.news = task.news and asked is not MORE  # it grew while the task was at work
            if task.ctx.cancelled or (task.answered() and not task.waits):
                self._put(task)

    def _close(self, task: _Open) -> None:
        try:
            if task.run is not None:
                task.run.close()
        except Exception:
            log.exception("task_not_closed", worker=self._worker.name)
        self._leave(task)
        self._end(task.task, "lost", CANCELLED)

    def _leave(self, task: _Open) -> None:
        task.ctx.close()
        with self._lock:
            self._open.remove(task)
            task.over, task.run, task.awaited = True, None, []
        del task.ctx.asks  # each has the other

    @contextmanager
    def _timed(self) -> Iterator[float]:
        """A slice or a batch is under way; since when, is given."""
        step, began = object(), time.monotonic()
        self._began[step] = began
        try:
            yield began
        finally:
            del self._began[step]


def engine_of(worker: Worker, emit: Emit, threads: int = 0, wake: Callable[[], None] = lambda: None) -> BaseEngine:
    """The engine that a worker's kind needs."""
    return AsyncEngine(worker, emit) if isinstance(worker, AsyncWorker) else Engine(worker, emit, threads, wake)
