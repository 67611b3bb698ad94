"""Two models of which a device holds one at a time; the device is a lock that a process keeps for its life."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any, ClassVar

from contract.errors import OutOfMemory
from workers.base import Context, Params, Run, Worker


class HogParams(Params):
    pipe: str | None = None


class Hog(Worker):
    name = "hog"
    message_type = "hog"
    answer: ClassVar[dict[str, Any]] = {"ate": "$hog"}
    Params = HogParams
    example: ClassVar[dict[str, Any]] = {}
    open_tasks: ClassVar[int] = 2

    def load(self) -> dict[str, Any]:
        self.folders.data.mkdir(parents=True, exist_ok=True)
        self._device = (self.folders.data / "device").open("a")
        try:
            fcntl.flock(self._device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise OutOfMemory("Another model has the device.") from exc
        return {"device": "cuda:0"}

    def run(self, params: HogParams, ctx: Context) -> Run:
        yield params.pipe
        return self.name

    def forward(self, units: list[Any]) -> list[Any]:
        return [pipe and Path(pipe).read_text() for pipe in units]  # a pipe holds the task until somebody writes


class Sow(Hog):
    name = "sow"
    message_type = "sow"
    answer: ClassVar[dict[str, Any]] = {"ate": "$sow"}


class Boar(Hog):
    name = "boar"
    message_type = "boar"
    answer: ClassVar[dict[str, Any]] = {"ate": "$boar"}
