"""Runs one task of a Worker in this process, as the host would, and keeps what it sent on the way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from contract.folders import Folders
from contract.messages import MAX_EVENT_BYTES, FileRef
from workers.base import TURN, Answer, Context, Worker


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
        self.asked: list[Answer] = []
        self.turns = 0
        self._workdir = workdir

    @property
    def workdir(self) -> Path:
        return self._workdir

    def local(self, ref: FileRef) -> Path:
        return Path(ref.value)

    def ask(self, unit: Any) -> Answer:
        self.asked.append(Answer(unit))
        return self.asked[-1]

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
        asked = next(run)
        while True:
            if asked is TURN:
                ctx.turns += 1
                asked = next(run)
                continue
            awaited = [one if isinstance(one, Answer) else ctx.ask(one) for one in _listed(asked)]
            if steps is not None and len(units) >= steps:
                run.close()
                raise Stopped
            units += _compute(worker, ctx)
            results = [answer.result for answer in awaited]
            if failed := next((result for result in results if isinstance(result, BaseException)), None):
                asked = run.throw(failed)
            else:
                asked = run.send(results if isinstance(asked, list) else results[0])
    except StopIteration as end:
        return orjson.loads(orjson.dumps(end.value)), units


def _listed(asked: Any) -> list[Any]:
    return asked if isinstance(asked, list) else [asked]


def _compute(worker: Worker, ctx: Recorder) -> list[Any]:
    """All units that were asked for, those of one key together."""
    asked, ctx.asked = ctx.asked, []
    groups: dict[Any, list[Answer]] = {}
    for answer in asked:
        groups.setdefault(worker.key(answer.unit), []).append(answer)
    for group in groups.values():
        for answer, result in zip(group, worker.forward([answer.unit for answer in group]), strict=True):
            answer.result, answer.done = result, True
    return [answer.unit for answer in asked]
