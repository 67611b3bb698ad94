"""The end of loading: the worker does its own `example`, so that what cannot compute is known before a job asks.

    example ─▶ run() ─▶ forward(), a unit at a time ─▶ until it is done, or `ENOUGH_SECONDS` after its first units

What fails in `forward` is the model's fault, or its libraries': the model is unavailable. What fails around it may be
the example's: it is logged, and the worker serves. Nothing that the example made is told or kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import time
from pathlib import Path
from typing import Any

import structlog

from contract.errors import ModelUnavailable, OutOfMemory, ServiceError
from contract.folders import Folders
from contract.messages import BlobRef, FileRef
from contract.params import checked
from storage.files import TaskFiles, bind_path
from storage.workdirs import clear_warm_up, warm_up_dir
from workers.base import MORE, TURN, Answer, Context, Run, Worker
from workers.runtime.context import opened

log = structlog.get_logger()

ENOUGH_SECONDS = 1.0
"""A large model on a CPU would need minutes for its example; its first unit shows that it works."""


class ModelFailed(Exception):
    """The model could not do the example; the cause says why."""


def warm_up(worker: Worker) -> None:
    """Raises: ModelUnavailable, OutOfMemory, MemoryError."""
    if not worker.warm_up or worker.live or not hasattr(worker, "example"):
        return  # a live one's example would need somebody who sends it
    folders = _readable(worker)
    workdir = warm_up_dir(os.getpid(), worker.folders)
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(_Unheard(workdir, folders)) as ctx:
            bind = lambda text: bind_path(text, folders, lambda path: False)  # noqa: E731
            params = checked(worker.TaskParams or worker.Params, worker.example, bind)
            with contextlib.closing(worker.run(params, ctx)) as run:
                _drive(worker, run)
    except (ModelUnavailable, OutOfMemory, MemoryError):
        raise
    except (ModelFailed, ImportError) as exc:
        log.error("warm_up_failed", worker=worker.name, exc_info=exc.__cause__ or exc)
        raise ModelUnavailable(
            f"The model of {worker.name} was loaded but cannot compute ({type(exc.__cause__ or exc).__name__}); the "
            "server's log has the reason."
        ) from exc
    except ServiceError as exc:
        log.warning("example_refused", worker=worker.name, reason=exc.message)
    except Exception as exc:  # the worker's own code around the model, which may fit other requests
        log.warning("example_failed", worker=worker.name, exc_info=exc)
    finally:
        clear_warm_up(os.getpid(), worker.folders)


def _drive(worker: Worker, run: Run) -> None:
    enough = None
    with contextlib.suppress(StopIteration):
        asked = next(run)
        while asked is not MORE and (enough is None or time.monotonic() < enough):
            if asked is TURN:
                asked = next(run)
                continue
            results = [_computed(worker, unit) for unit in (asked if isinstance(asked, list) else [asked])]
            enough = enough or time.monotonic() + ENOUGH_SECONDS
            asked = run.send(results if isinstance(asked, list) else results[0])


def _computed(worker: Worker, unit: Any) -> Any:
    """A unit's result, or that of an answer, computed once. Raises: ModelFailed; what is an answer already."""
    answer = unit if isinstance(unit, Answer) else Answer(unit)
    try:
        if not answer.done:
            answer.result, answer.done = worker.forward([answer.unit])[0], True
        return answer.get()
    except (ServiceError, MemoryError):
        raise
    except Exception as exc:
        raise ModelFailed from exc


def _readable(worker: Worker) -> Folders:
    """Paths of an example are relative to the server's folder, or to that of the worker's file."""
    server = Path(__file__).parents[2]
    own = Path(inspect.getfile(type(worker))).parent
    return dataclasses.replace(worker.folders, roots=(server.resolve(), own.resolve()))


class _Unheard(Context):
    """What the example tells is dropped, and the files that it hands over are deleted."""

    checkpoint_data = None
    finished = ()
    owner = "warm-up"
    key = "warm-up"

    def __init__(self, workdir: Path, folders: Folders) -> None:
        self._workdir = workdir
        self._folders = folders
        self._files = TaskFiles(folders)

    @property
    def workdir(self) -> Path:
        return self._workdir

    def local(self, ref: FileRef) -> Path:
        return self._files.path(ref)

    def open(self, ref: BlobRef) -> Any:
        return opened(ref, self._folders)

    def ask(self, unit: Any) -> Answer:
        """It is computed when it is waited for."""
        return Answer(unit)

    def progress(self, fraction: float | None, eta: float | None = None, **details: Any) -> None: ...
    def partial(self, index: int, data: Any) -> None: ...
    def audio(self, index: int, start: int, samples: Any, sample_rate: int) -> None: ...
    def checkpoint(self, data: Any) -> None: ...

    def close(self) -> None:
        self._files.close()

    def made(self, path: Path, name: str) -> None:
        path.unlink(missing_ok=True)
