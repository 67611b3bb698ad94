"""A worker that gives back what it reads, and makes a file when it is asked to."""

from __future__ import annotations

from typing import Any, ClassVar

from contract.messages import FileRef
from workers.base import Context, Params, Run, Worker


class ReaderParams(Params):
    file: FileRef | None = None
    make: str | None = None


class Reader(Worker):
    """Reads a file twice, a step of the model between; `make`: the name of a file that it makes of nothing."""

    name = "reader"
    message_type = "reader"
    answer: ClassVar[dict[str, Any]] = {"read": "$reader"}
    Params = ReaderParams
    warm_up: ClassVar[bool] = False

    def run(self, params: ReaderParams, ctx: Context) -> Run:
        if params.make:
            path = self.folders.speech / params.make
            path.touch()
            ctx.made(path, params.make)
            return str(path)
        assert params.file
        first = ctx.local(params.file).read_text()
        yield None
        return first + ctx.local(params.file).read_text()

    def forward(self, units: list[Any]) -> list[Any]:
        return units
