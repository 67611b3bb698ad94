"""A worker whose device runs out of memory when a unit asks for more than it has."""

from __future__ import annotations

from typing import Any, ClassVar

from contract.errors import OutOfMemory
from workers.base import AsyncWorker, Context, Params, Run, Worker

MEMORY = 10


class GluttonParams(Params):
    asks: int


class Glutton(Worker):
    name = "glutton"
    message_type = "glutton"
    answer: ClassVar[dict[str, Any]] = {"had": "$glutton"}
    Params = GluttonParams
    example: ClassVar[dict[str, Any]] = {"asks": 1}

    def run(self, params: GluttonParams, ctx: Context) -> Run:
        had = 0
        for _ in range(3):
            had += yield params.asks
        return had

    def forward(self, units: list[int]) -> list[Any]:
        return [unit if unit <= MEMORY else OutOfMemory("Ask for less.") for unit in units]


class Gobbler(AsyncWorker):
    """Has no model, and runs out of memory all the same."""

    name = "gobbler"
    message_type = "gobbler"
    answer: ClassVar[dict[str, Any]] = {"had": "$gobbler"}
    Params = GluttonParams
    example: ClassVar[dict[str, Any]] = {"asks": 1}

    async def run_async(self, params: GluttonParams, ctx: Context) -> int:
        if params.asks > MEMORY:
            raise MemoryError
        return params.asks
