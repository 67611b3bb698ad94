"""Workers for the tests of reliability: each step of a task does what its script says, and leaves a line in a trace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from workers.base import Context, Params, Run, Worker


class DrillParams(Params):
    script: list[str] = Field(description="a step each: `go`, `huge`, or one of STEPS and a path")
    trace: str | None = Field(None, description="file for a line `label step pid` before each step")
    label: str = ""


class Unit(NamedTuple):
    step: str
    trace: str | None
    line: str


def announce(gate: str) -> None:
    """Say who is here, where somebody wants to know."""
    if Path(f"{gate}.here").exists():
        with Path(f"{gate}.here").open("wb", buffering=0) as here:
            here.write(b"%d\n" % os.getpid())


def wait(gate: str) -> None:
    announce(gate)
    with Path(gate).open("rb", buffering=0) as fifo:
        fifo.read(1)


def die(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def loop(_: str) -> None:
    while True:
        pass


def freeze(gate: str) -> None:
    """Hold the interpreter's lock for good, as a library may."""
    announce(gate)
    re.match(r"(a+)+$", "a" * 64 + "b")


def deaf(gate: str) -> None:
    """Hear no cancelling and no SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait(gate)
    loop(gate)


def child(gate: str) -> None:
    """Start a program, as ffmpeg is started, which then stands at the gate in the worker's place."""
    subprocess.run(["sh", "-c", f"echo $$ > {gate}.here; exec head -c1 {gate}"], stdout=subprocess.DEVNULL, check=False)


def once(step: str, path: str) -> None:
    """Do something the first time only."""
    memory = Path(f"{path}.once")
    if not memory.exists():
        memory.touch()
        STEPS[step](path)


STEPS = {"gate": wait, "die": die, "loop": loop, "freeze": freeze, "deaf": deaf, "child": child}


class Drill(Worker):
    """Serves several tasks at once, in batches. Waits while it loads, when there is a `load` gate in DATA_DIR."""

    name = "drill"
    message_type = "drill"
    answer: ClassVar[dict[str, Any]] = {"drill": "$drill"}
    Params = DrillParams
    example: ClassVar[dict[str, Any]] = {"script": ["go"]}
    batch = 4

    def load(self) -> dict[str, Any]:
        gate = self.folders.data / f"{self.name}.load"
        if gate.exists():
            wait(str(gate))
        return {"device": "cpu"}

    def run(self, params: DrillParams, ctx: Context) -> Run:
        (ctx.workdir / "temporary").touch()
        for index in range(ctx.checkpoint_data or 0, len(params.script)):
            yield Unit(params.script[index], params.trace, f"{params.label} {index} {os.getpid()}\n")
            ctx.partial(2**63 if params.script[index] == "huge" else index, params.script[index])
            ctx.checkpoint(index + 1)
        return {"steps": len(params.script), "pid": os.getpid()}

    def forward(self, units: list[Any]) -> list[Any]:
        for unit in units:
            if unit.trace:
                with Path(unit.trace).open("a") as trace:
                    trace.write(unit.line)
        for unit in units:
            step, _, path = unit.step.partition(" ")
            if step.endswith("-once"):
                once(step.removesuffix("-once"), path)
            elif step in STEPS:
                STEPS[step](path)
        return units


class Single(Drill):
    """The same, one task at a time."""

    name = "single"
    message_type = "single"
    answer: ClassVar[dict[str, Any]] = {"single": "$single"}
    open_tasks: ClassVar[int] = 1
    batch = 1


class Swift(Drill):
    """The same, with short steps by its tests' settings."""

    name = "swift"
    message_type = "swift"
    answer: ClassVar[dict[str, Any]] = {"swift": "$swift"}


class Stubborn(Drill):
    """The same, for a test that runs beside the others."""

    name = "stubborn"
    message_type = "stubborn"
    answer: ClassVar[dict[str, Any]] = {"stubborn": "$stubborn"}


class Crasher(Worker):
    """Its model kills every process that loads it."""

    name = "crasher"
    message_type = "crasher"
    answer: ClassVar[dict[str, Any]] = {"crasher": "$crasher"}
    Params = Params
    example: ClassVar[dict[str, Any]] = {}

    def load(self) -> dict[str, Any]:
        with (self.folders.data / "crashes").open("a") as crashes:
            crashes.write("x")
        os._exit(9)
