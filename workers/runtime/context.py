"""One task's line out of its worker's process: progress, partials, checkpoints, and exactly one end.

Both engines stand on this: `Engine` for models, which works in steps, and `AsyncEngine` for workers that wait.
"""

from __future__ import annotations

import os
import secrets
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
import structlog
from pydantic import BaseModel

from contract.errors import Internal, OutOfMemory, ServiceError, as_failure
from contract.folders import Folders
from contract.messages import BLOB, MAX_EVENT_BYTES, BlobRef, Event, FileRef, Task, filled
from contract.params import as_asked
from storage import blobs
from storage.files import TaskFiles
from storage.workdirs import attempt_name, clear_workdir, task_name, workdir_of
from workers.base import Answer, Context, Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = structlog.get_logger()

PROGRESS_SECONDS = 0.2
"""Hints closer together than this wait, and only the latest is told; people cannot read faster."""

MAX_FIELD_BYTES = MAX_EVENT_BYTES // 32
"""What a field of a large result may have to stay in its event."""

Emit = Callable[[Event], None]


class TaskContext(Context):
    """A task's line to the server, as events."""

    def __init__(self, task: Task, folders: Folders, emit: Emit, hints: dict[str, Event]) -> None:
        self.checkpoint_data = task.checkpoint
        self.finished = task.finished
        self.ended = task.ended
        self.owner = task.owner
        self._task = task
        self._folders = folders
        self._files = TaskFiles(folders)
        self._emit = emit
        self._hints = hints
        self._last_progress = 0.0
        self.asks: Callable[[Any], Answer]
        """The engine's `ask`, where it has one."""

    @property
    def key(self) -> str:
        return task_name(self._task)

    def local(self, ref: FileRef) -> Path:
        return self._files.path(ref)

    def open(self, ref: BlobRef) -> Any:
        return opened(ref, self._folders)

    def ask(self, unit: Any) -> Answer:
        return self.asks(unit)

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
            self._hints.pop(attempt_name(self._task), None)
            self._emit(hint)
        else:
            self._hints[attempt_name(self._task)] = hint

    def partial(self, index: int, data: Any) -> None:
        self._emit(Event.of(self._task, "partial", _small(data), index))

    def audio(self, index: int, start: int, samples: npt.NDArray[np.int16], sample_rate: int) -> None:
        sound = samples.astype("<i2", copy=False).tobytes()
        place = {"start": start, "end": start + len(samples), "sample_rate": sample_rate}
        self._emit(Event.of(self._task, "audio", _small({**place, "audio": b64encode(sound).decode()}), index))

    def made(self, path: Path, name: str) -> None:
        file = {"path": str(path.resolve()), "name": name, "bytes": path.stat().st_size}
        self._emit(Event.of(self._task, "made", file))

    def checkpoint(self, data: Any) -> None:
        self._emit(Event.of(self._task, "checkpoint", _small(data)))

    def close(self) -> None:
        """The task has ended: let go of its files."""
        self._files.close()


class BaseEngine(ABC):
    """Runs the tasks of one loaded worker; `emit` takes what they say."""

    out_of_memory: bool = False
    """Whether a task failed for want of memory, which a process of a longer life may have used up itself."""
    forward_seconds: float = 0.0
    """How long the model has computed."""

    def __init__(self, worker: Worker, emit: Emit) -> None:
        self._worker = worker
        self._emit = emit
        self._hints: dict[str, Event] = {}

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether `step` has something to do."""

    @property
    def step_started(self) -> float | None:
        """When the oldest step in hand began, by the monotonic clock; None between two steps."""
        return None

    @abstractmethod
    def add(self, task: Task) -> None:
        """Take a task."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Stop the tasks of a job as soon as can be."""

    @abstractmethod
    def more(self, job: str, ended: bool) -> None:
        """The recording that the job's tasks follow has grown. ended: it is whole."""

    @abstractmethod
    def step(self) -> None:
        """Do the next piece of work."""

    def late_hints(self) -> list[Event]:
        """The latest progress of each task that came too soon to be told; for another thread, while a step is long."""
        return [hint for name in list(self._hints) if (hint := self._hints.pop(name, None))]

    def _params(self, task: Task) -> BaseModel:
        """Reads the blobs that parameters stand in. Raises: InvalidInput, Internal."""
        model = self._worker.TaskParams or self._worker.Params
        return as_asked(model, task.params, lambda name: _content(name, self._worker.folders))

    def _context(self, task: Task) -> TaskContext:
        return TaskContext(task, self._worker.folders, self._emit, self._hints)

    def _fail(self, task: Task, exc: BaseException) -> None:
        if not isinstance(exc, ServiceError):
            log.error("task_failed", worker=self._worker.name, exc_info=exc)
        self._end(task, "failed", as_failure(exc))

    def _end(self, task: Task, kind: Literal["done", "failed", "lost"], data: Any) -> None:
        clear_workdir(task, self._worker.folders)
        self._hints.pop(attempt_name(task), None)
        if kind == "failed":  # here, because then the process gives back all that has not ended
            self.out_of_memory |= data["error_code"] == OutOfMemory.code
        try:
            self._emit(Event.of(task, kind, _spilled(data, self._worker.folders)))
        except Exception as exc:
            log.exception("result_not_kept", worker=self._worker.name)
            self._emit(Event.of(task, "failed", as_failure(exc)))


CANCELLED = {"counted": False, "reason": "cancelled"}
"""How a cancelled task's `lost` reads."""


def opened(ref: BlobRef, folders: Folders) -> Any:
    """`Context.open`."""
    return filled(ref.inline, lambda name: _content(name, folders)) if ref.name is None else _content(ref.name, folders)


def _content(name: str, folders: Folders) -> Any:
    """Raises: Internal."""
    try:
        return blobs.read(name, folders)
    except (OSError, ValueError) as exc:
        log.exception("blob_not_read", blob=name, of="operator")
        raise Internal(
            "What an earlier step of this job gave cannot be read from the server's disk any more; send the job again."
        ) from exc


def _small(data: Any) -> orjson.Fragment:
    encoded = _encoded(data)
    if len(encoded) > MAX_EVENT_BYTES:
        raise ValueError(f"an event may have {MAX_EVENT_BYTES} bytes, this one has {len(encoded)}")
    return orjson.Fragment(encoded)


def _spilled(result: Any, folders: Folders) -> Any:
    """A result as its event carries it: whole when it is small, else with its large fields as blobs.

    The small fields stay where later stages of a pipeline can refer to them.
    """
    fields: dict[str, bytes] = {}
    if isinstance(result, dict):  # each field is encoded once: one may be an hour of sound
        for key, value in result.items():
            fields[key] = _encoded(_blob(value, "bin", folders) if isinstance(value, bytes) else value)
        result = {key: orjson.Fragment(part) for key, part in fields.items()}
    if sum(map(len, fields.values())) <= MAX_EVENT_BYTES:
        encoded = _encoded(result)
        if len(encoded) <= MAX_EVENT_BYTES:
            return orjson.Fragment(encoded)
    small = {key for key, part in fields.items() if len(part) <= MAX_FIELD_BYTES}
    if fields and len(small) * MAX_FIELD_BYTES <= MAX_EVENT_BYTES:
        told = {key: result[key] if key in small else _blob(part, "json", folders) for key, part in fields.items()}
        return orjson.Fragment(_encoded(told))
    return _blob(_encoded(result), "json", folders)


def _encoded(data: Any) -> bytes:
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


def _blob(encoded: bytes, kind: Literal["json", "bin"], folders: Folders) -> dict[str, Any]:
    """The reference to a blob that has reached the disk."""
    name = f"{secrets.token_hex(16)}.{kind}"
    folders.blobs.mkdir(parents=True, exist_ok=True)
    with (folders.blobs / name).open("xb") as blob:
        blob.write(encoded)
        blob.flush()
        os.fsync(blob.fileno())
    return {BLOB: name, "bytes": len(encoded)}
