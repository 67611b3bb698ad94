"""Runs the tasks of one worker, a step at a time; knows no process, so that tests run it in place.

add(task) ─▶ run() up to its first unit ┐
                                        ├─▶ step(): up to `batch` units that go together ─▶ forward() ─▶ run() goes on
units wait, oldest task first ──────────┘
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog

from media.files import Folders, local
from pipeline.errors import ServiceError, as_failure
from pipeline.messages import BLOB, MAX_EVENT_BYTES, Event, FileRef, Task
from pipeline.plans import checked
from workers.base import Context, Run, Worker

log = structlog.get_logger()

PROGRESS_SECONDS = 0.2
"""Hints closer together than this wait, and only the latest is told; people cannot read faster."""

Emit = Callable[[Event], None]


class TaskContext(Context):
    """A task's line to the server, as events."""

    def __init__(self, task: Task, folders: Folders, emit: Emit, hints: dict[str, Event]) -> None:
        self.checkpoint_data = task.checkpoint
        self.finished = task.finished
        self._task = task
        self._folders = folders
        self._emit = emit
        self._hints = hints
        self._last_progress = 0.0

    def local(self, ref: FileRef) -> Path:
        return local(ref, self._folders)

    @property
    def workdir(self) -> Path:
        folder = workdir_of(self._task, self._folders)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def progress(self, fraction: float | None, eta: float | None = None, **details: Any) -> None:
        hint = Event.of(self._task, "progress", {"fraction": fraction, "eta": eta, **details})
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_SECONDS:
            self._last_progress = now
            self._hints.pop(_name(self._task), None)
            self._emit(hint)
        else:
            self._hints[_name(self._task)] = hint

    def partial(self, index: int, data: Any) -> None:
        self._emit(Event.of(self._task, "partial", _small(data), index))

    def checkpoint(self, data: Any) -> None:
        self._emit(Event.of(self._task, "checkpoint", _small(data)))


@dataclasses.dataclass(slots=True)
class _Open:
    """A task under way: its generator stands at `unit`."""

    task: Task
    ctx: TaskContext
    run: Run
    unit: Any = None


class Engine:
    """The open tasks of one loaded worker."""

    def __init__(self, worker: Worker, emit: Emit) -> None:
        self._worker = worker
        self._emit = emit
        self._open: deque[_Open] = deque()
        self._hints: dict[str, Event] = {}
        self.step_started: float | None = None
        """When the step in hand began, by the monotonic clock; None between two steps."""

    @property
    def busy(self) -> bool:
        return bool(self._open)

    def add(self, task: Task) -> None:
        """Take a task and bring it to its first unit."""
        ctx = TaskContext(task, self._worker.folders, self._emit, self._hints)
        try:
            run = self._worker.run(checked(self._worker.Params, task.params), ctx)
        except ServiceError as exc:
            self._emit(Event.of(task, "failed", as_failure(exc)))
            return
        self._go_on(_Open(task, ctx, run), lambda: next(run))

    def late_hints(self) -> list[Event]:
        """The latest progress of each task that came too soon to be told; for another thread, while a step is long."""
        return [hint for name in list(self._hints) if (hint := self._hints.pop(name, None))]

    def cancel(self, job: str) -> None:
        """Stop the tasks of a job between two of their steps."""
        for task in [task for task in self._open if task.task.job == job]:
            self._open.remove(task)
            task.ctx.cancelled = True
            try:
                task.run.close()
            except Exception:
                log.exception("task_not_closed", worker=self._worker.name, job=job)
            self._end(task, "lost", {"counted": False, "reason": "cancelled"})

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
            self._end(task, "done", stop.value)
        except ServiceError as exc:
            self._end(task, "failed", as_failure(exc))
        except Exception as exc:
            log.exception("task_failed", worker=self._worker.name, job=task.task.job)
            self._end(task, "failed", as_failure(exc))
        finally:
            self.step_started = None

    def _end(self, task: _Open, kind: Literal["done", "failed", "lost"], data: Any) -> None:
        clear_workdir(task.task, self._worker.folders)
        self._hints.pop(_name(task.task), None)
        try:
            self._emit(Event.of(task.task, kind, _spilled(data, self._worker.folders)))
        except Exception as exc:
            log.exception("result_not_kept", worker=self._worker.name, job=task.task.job)
            self._emit(Event.of(task.task, "failed", as_failure(exc)))


def workdir_of(task: Task, folders: Folders) -> Path:
    """Where an attempt keeps its temporary files."""
    return folders.work / _name(task)


def _name(task: Task) -> str:
    """One attempt's, unlike any other's."""
    return f"{task.job}.{task.stage}.{'-'.join(map(str, task.item))}.{task.attempt}"


def clear_workdir(task: Task, folders: Folders) -> None:
    folder = workdir_of(task, folders)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _small(data: Any) -> orjson.Fragment:
    encoded = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(encoded) > MAX_EVENT_BYTES:
        raise ValueError(f"a partial or checkpoint may have {MAX_EVENT_BYTES} bytes, this one has {len(encoded)}")
    return orjson.Fragment(encoded)


def _spilled(data: Any, folders: Folders) -> Any:
    """The result itself when it is small, else the reference to a blob that has reached the disk."""
    encoded = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(encoded) <= MAX_EVENT_BYTES:
        return orjson.Fragment(encoded)
    name = f"{secrets.token_hex(16)}.json"
    folders.blobs.mkdir(parents=True, exist_ok=True)
    with (folders.blobs / name).open("xb") as blob:
        blob.write(encoded)
        blob.flush()
        os.fsync(blob.fileno())
    return {BLOB: name, "bytes": len(encoded)}
