"""How soon a task runs again whose worker died, stopped or hangs, and how soon a cancelled job's model is free.

    .venv/bin/python -m bench.recovery [--rounds 5] [--step 1]

One server on this machine, with workers that do what each step of a task says and whose models take no time to load. A
task tells by a pipe that it runs, so nothing is polled. `step` is the declared length of a step, in seconds: a worker
is taken to hang after three of them.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from client import Client
from tests.drills import DrillServer, Gate, gates

STEP_SECONDS = 1.0
STEPS = 10_000
"""Steps of a job that is cancelled long before their end."""


class Drill:
    """One round. before: the gate where a task waits until the clock runs; after: the one whose reaching stops it."""

    def __init__(self, client: Client, before: Gate, after: Gate) -> None:
        self._client = client
        self._before = before
        self._after = after

    def killed(self) -> float:
        return self._signalled(signal.SIGKILL)

    def stopped(self) -> float:
        return self._signalled(signal.SIGSTOP)

    def _signalled(self, number: signal.Signals) -> float:
        job = self._client.submit("drill", script=[self._after.step])
        worker = self._after.reached()
        began = time.perf_counter()
        os.kill(worker, number)
        self._after.reached()
        return self._over(began, job.result)

    def loops(self) -> float:
        return self._hangs("loop")

    def holds_the_interpreter(self) -> float:
        return self._hangs("freeze")

    def _hangs(self, how: str) -> float:
        once = f"{how}-once {self._before.path}"
        job = self._client.submit("swift", script=[self._before.step, once, self._after.step])
        self._before.reached()
        began = time.perf_counter()
        self._before.open()
        self._after.reached()
        return self._over(began, job.result)

    def listens(self) -> float:
        return self._cancelled([self._before.step] + ["go"] * STEPS)

    def ends_at_sigterm(self) -> float:
        return self._cancelled([self._before.step, f"loop {self._before.path}"])

    def hears_nothing(self) -> float:
        return self._cancelled([f"deaf {self._before.path}"])

    def _cancelled(self, script: list[str]) -> float:
        """Until the next job of the same worker, which does one task at a time, runs."""
        job = self._client.submit("single", script=script)
        self._before.reached()
        following = self._client.submit("single", script=[self._after.step])
        self._before.open()
        began = time.perf_counter()
        job.cancel()
        self._after.reached()
        return self._over(began, following.result)

    def _over(self, began: float, end: Callable[[], object]) -> float:
        took = time.perf_counter() - began
        self._after.open()
        end()
        return took


ROWS: dict[str, Callable[[Drill], float]] = {
    "kill -9, until its task runs again": Drill.killed,
    "SIGSTOP, until its task runs again": Drill.stopped,
    "endless loop, until its task runs again": Drill.loops,
    "interpreter's lock held, until its task runs again": Drill.holds_the_interpreter,
    "cancelled, until a model that listens is free": Drill.listens,
    "cancelled, until one is free that only SIGTERM ends": Drill.ends_at_sigterm,
    "cancelled, until one is free that only SIGKILL ends": Drill.hears_nothing,
}


def settings(step_seconds: float) -> dict[str, str]:
    """Of the server."""
    return {
        **{f"{name}_PRELOAD": "1" for name in ("DRILL", "SWIFT", "SINGLE")},
        "SWIFT_STEP_SECONDS": str(step_seconds),
        "HOST": "127.0.0.1",
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step", type=float, default=STEP_SECONDS)
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        DrillServer(Path(folder), **settings(args.step)) as server,
        Client(server.url) as client,
    ):
        for turn in range(args.rounds):
            for row, (name, measured) in enumerate(ROWS.items()):
                with gates(Path(folder), f"before{turn}.{row}", f"after{turn}.{row}") as (before, after):
                    found[name].append(measured(Drill(client, before, after)))
    print("| | s (spread) |\n|---|---|")
    for name, took in found.items():
        print(f"| {name} | {statistics.median(took):.2f} ({min(took):.2f}-{max(took):.2f}) |")


if __name__ == "__main__":
    main()
