"""Runs one task of a Worker in this process, as the host would, and keeps what it sent on the way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from contract.folders import Folders
from contract.messages import MAX_EVENT_BYTES, FileRef
from workers.base import Context, Worker


class Stopped(Exception):
    """The process of the worker went away, for the test's purposes."""


class Recorder(Context):
    """A Context that writes down what a task sends; data goes through JSON, as on the real way."""

    def __init__(self, workdir: Path, checkpoint: Any = None, finished: Iterable[Any] = ()) -> None:
        self.checkpoint_data = checkpoint
        self.finished = tuple(finished)
        self.partials: dict[int, Any] = dict(enumerate(self.finished))
        self.checkpoints: list[Any] = []
        self.fractions: list[float | None] = []
        self._workdir = workdir

    @property
    def workdir(self) -> Path:
        return self._workdir

    def local(self, ref: FileRef) -> Path:
        return Path(ref.value)

    def progress(self, fraction: float | None, eta: float | None = None, **details: Any) -> None:
        assert fraction is None or 0 <= fraction <= 1
        assert eta is None or eta >= 0
        self.fractions.append(fraction)

    def partial(self, index: int, data: Any) -> None:
        self.partials[index] = _as_sent(data)

    def checkpoint(self, data: Any) -> None:
        self.checkpoints.append(_as_sent(data))

    def again(self) -> Recorder:
        """The context of the attempt after this one."""
        checkpoint = self.checkpoints[-1] if self.checkpoints else None
        return Recorder(self._workdir, checkpoint, [self.partials[index] for index in sorted(self.partials)])


def _as_sent(data: Any) -> Any:
    raw = orjson.dumps(data)
    assert len(raw) <= MAX_EVENT_BYTES
    return orjson.loads(raw)


def folders(data: Path, *roots: Path) -> Folders:
    """A server's folders, all under `data`."""
    return Folders(roots, data, voices=data / "voices", speech=data / "speech", downloads=data / "downloads")


def drive(worker: Worker, params: dict[str, Any], ctx: Recorder, steps: int | None = None) -> tuple[Any, list[Any]]:
    """The task's result, as JSON gives it back, and the units that were computed.

    params: `file` as a path. Raises: Stopped after so many units.
    """
    file = FileRef("path", str(params["file"]))
    run = worker.run(worker.Params.model_validate({**params, "file": file}), ctx)
    units: list[Any] = []
    try:
        unit = next(run)
        while True:
            if steps is not None and len(units) >= steps:
                run.close()
                raise Stopped
            asked = unit if isinstance(unit, list) else [unit]
            units += asked
            results = worker.forward(asked)
            if failed := next((result for result in results if isinstance(result, BaseException)), None):
                unit = run.throw(failed)
            else:
                unit = run.send(results if isinstance(unit, list) else results[0])
    except StopIteration as end:
        return orjson.loads(orjson.dumps(end.value)), units
