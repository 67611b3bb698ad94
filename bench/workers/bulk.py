"""A worker whose answers are as large as asked for, and one that never answers: what others do to the road."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workers.base import AsyncWorker, Context, Params, Run, Worker
from workers.runtime.async_engine import in_thread


class BulkParams(Params):
    partials: int = Field(0, ge=0, le=10_000)
    partial_bytes: int = Field(1, ge=0, le=64_000)
    result_bytes: int = Field(2, ge=0, le=64_000_000)


class Bulk(Worker):
    name = "bulk"
    message_type = "bulk"
    answer = {"bulk": "$bulk"}
    Params = BulkParams
    example = {"partials": 1}
    open_tasks = 16

    def run(self, params: BulkParams, ctx: Context) -> Run:
        for index in range(params.partials):
            ctx.partial(index, "p" * params.partial_bytes)
        yield None
        return "r" * params.result_bytes

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class StuckParams(Params):
    pipe: str


class Stuck(AsyncWorker):
    """Reads a pipe to which nobody writes, until it is cancelled."""

    name = "stuck"
    message_type = "stuck"
    answer = {"stuck": "$stuck"}
    Params = StuckParams
    example = {"pipe": "/dev/null"}
    concurrency = 1

    async def run_async(self, params: StuckParams, ctx: Context) -> str:
        def read() -> str:
            with open(params.pipe) as pipe:
                return pipe.read()

        def stop() -> None:
            with open(params.pipe, "w") as pipe:
                pipe.write("stopped")

        return await in_thread(read, stop)
