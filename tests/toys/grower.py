"""A worker that keeps what it is asked to, as a library with a leak does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from workers.base import Context, Params, Run, Worker, WorkerSettings
from workers.runtime import growth, host


class GrowerSettings(WorkerSettings):
    max_growth_gb: float = Field(0.05, description="as every worker's")
    at_once: bool = Field(False, description="look at every step, and do not wait for the end of a task")


class GrowerParams(Params):
    leaks_mb: int = 0
    holds_mb: int = 0
    pipe: str | None = None


class Grower(Worker):
    name = "grower"
    message_type = "grower"
    answer: ClassVar[dict[str, Any]] = {"pid": "$grower"}
    Params = GrowerParams
    Settings = GrowerSettings
    example: ClassVar[dict[str, Any]] = {}

    def load(self) -> dict[str, Any]:
        self._kept: list[bytes] = []
        if self.settings.at_once:
            host.INFO_SECONDS = growth.BUSY_SECONDS = 0.0
        return {}

    def run(self, params: GrowerParams, ctx: Context) -> Run:
        held = b"x" * (params.holds_mb << 20)
        yield params.leaks_mb
        yield params.pipe
        del held
        return os.getpid()

    def forward(self, units: list[Any]) -> list[Any]:
        self._kept += [b"x" * (unit << 20) for unit in units if isinstance(unit, int)]
        return [Path(unit).read_text() if isinstance(unit, str) else None for unit in units]
