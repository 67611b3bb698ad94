"""A worker that does nothing: what is left is the road."""

from __future__ import annotations

from typing import Any

from workers.base import Context, Params, Run, Worker

_NO_UNITS: tuple[Any, ...] = ()


class NoopParams(Params):
    value: Any = None


class Noop(Worker):
    name = "noop"
    message_type = "noop"
    answer = {"value": "$noop"}
    Params = NoopParams
    example = {"value": 1}
    open_tasks = 256

    def run(self, params: NoopParams, ctx: Context) -> Run:
        yield from _NO_UNITS
        return params.value
