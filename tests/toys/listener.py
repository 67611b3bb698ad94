"""A worker that follows a recording: each ten bytes of it are a partial, and the result is all that it heard."""

from __future__ import annotations

from typing import Any, ClassVar

from contract.messages import FileRef
from workers.base import MORE, Context, Params, Run, Worker


class ListenerParams(Params):
    file: FileRef | None = None


class Listener(Worker):
    name = "toy_listener"
    message_type = "toy_listener"
    answer: ClassVar[dict[str, Any]] = {"heard": "$toy_listener"}
    Params = ListenerParams
    example: ClassVar[dict[str, Any]] = {}
    open_tasks: ClassVar[int] = 1
    live_tasks: ClassVar[int] = 2
    live: ClassVar[bool] = True

    def run(self, params: ListenerParams, ctx: Context) -> Run:
        assert params.file is not None
        path, told = ctx.local(params.file), len(ctx.finished)
        while True:
            whole = ctx.ended  # before reading: what comes after the end is nothing
            heard = path.read_bytes().decode()
            while len(heard) >= 10 * (told + 1):
                ctx.partial(told, (yield heard[10 * told : 10 * told + 10]))
                told += 1
            if whole:
                return heard
            yield MORE

    def forward(self, units: list[Any]) -> list[Any]:
        return units
