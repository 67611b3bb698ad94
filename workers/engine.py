"""Runs the tasks of a model's worker, a step at a time; knows no process, so that tests run it in place.

add(task) ─▶ run() up to its first unit ┐
                                        ├─▶ step(): up to `batch` units that go together ─▶ forward() ─▶ run() goes on
units wait, oldest task first ──────────┘
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from pipeline.errors import ServiceError
from pipeline.messages import Task
from pipeline.plans import checked
from workers.async_engine import AsyncEngine
from workers.base import AsyncWorker, Run, Worker
from workers.context import CANCELLED, BaseEngine, Emit, TaskContext

log = structlog.get_logger()


@dataclasses.dataclass(slots=True)
class _Open:
    """A task under way: its generator stands at `unit`."""

    task: Task
    ctx: TaskContext
    run: Run
    unit: Any = None


class Engine(BaseEngine):
    """Units of the open tasks, in batches."""

    def __init__(self, worker: Worker, emit: Emit) -> None:
        super().__init__(worker, emit)
        self._open: deque[_Open] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._open)

    def add(self, task: Task) -> None:
        """Take a task and bring it to its first unit."""
        ctx = self._context(task)
        try:
            run = self._worker.run(checked(self._worker.Params, task.params), ctx)
        except ServiceError as exc:
            self._fail(task, exc)
            return
        self._go_on(_Open(task, ctx, run), lambda: next(run))

    def cancel(self, job: str) -> None:
        """Stop the tasks of a job between two of their steps."""
        for task in [task for task in self._open if task.task.job == job]:
            self._open.remove(task)
            task.ctx.cancelled = True
            try:
                task.run.close()
            except Exception:
                log.exception("task_not_closed", worker=self._worker.name, job=job)
            self._end(task.task, "lost", CANCELLED)

    def step(self) -> None:
        """One batch: the oldest waiting unit and those that go with it, of other tasks."""
        key = self._worker.key(self._open[0].unit)
        batch = [task for task in self._open if self._worker.key(task.unit) == key][: self._worker.batch]
        for task in batch:
            self._open.remove(task)
        for task, result in zip(batch, self._forward(batch), strict=True):
            if isinstance(result, BaseException):
                self._go_on(task, lambda task=task, exc=result: task.run.throw(exc))  # type: ignore[misc]
            else:
                self._go_on(task, lambda task=task, value=result: task.run.send(value))  # type: ignore[misc]

    def _forward(self, batch: list[_Open]) -> list[Any]:
        """Results in order; an exception stands in the place of the unit that it concerns."""
        self.step_started = time.monotonic()
        try:
            return self._worker.forward([task.unit for task in batch])
        except Exception as exc:
            if len(batch) == 1:
                return [exc]
            log.exception("batch_failed", worker=self._worker.name, size=len(batch))
            return [result for task in batch for result in self._forward([task])]  # find the guilty one
        finally:
            self.step_started = None

    def _go_on(self, task: _Open, action: Callable[[], Any]) -> None:
        self.step_started = time.monotonic()
        try:
            task.unit = action()
            self._open.append(task)
        except StopIteration as stop:
            self._end(task.task, "done", stop.value)
        except Exception as exc:  # noqa: BLE001 - it is this task's, and logged there
            self._fail(task.task, exc)
        finally:
            self.step_started = None


def engine_of(worker: Worker, emit: Emit) -> BaseEngine:
    """The engine that a worker's kind needs."""
    return AsyncEngine(worker, emit) if isinstance(worker, AsyncWorker) else Engine(worker, emit)
