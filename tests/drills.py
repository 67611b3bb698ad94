"""For tests of reliability: servers with the workers of toys/reliability_toy, gates they wait at, and how they end."""

from __future__ import annotations

import os
import select
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from client import Client, Event, Final, Job, Partial, Progress
from tests.processes import descendants, left
from tests.servers import Server

TESTS = Path(__file__).parent
PATIENCE = 60.0
"""Seconds to wait for what must happen."""
MANY = dict.fromkeys(("MAX_OPEN_JOBS", "MAX_OPEN_JOBS_PER_CLIENT", "MAX_OPEN_JOBS_PER_ADDRESS"), "100000")
"""Settings for more unfinished jobs than any test has."""


class DrillServer(Server):
    """A server with the drills, and with a Whisper that costs nothing unless a test names a model."""

    def __init__(self, folder: Path, **settings: str) -> None:
        played = [] if "AI_WHISPER_MODEL" in settings else [str(TESTS / "client_workers")]
        workers = os.pathsep.join([str(TESTS / "toys"), *played])
        defaults = {"WORKERS_PATH": workers, "MEDIA_ROOTS": str(folder), "DRAIN_SECONDS": "0.5"}
        super().__init__(folder, **{**defaults, **settings})

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, **self.settings}

    @property
    def data(self) -> Path:
        return self.folder / "data_dir"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait(PATIENCE)

    def kill_all(self) -> None:
        """kill -9 of the server and of every process below it, as of a whole process group."""
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):  # it ends with the one before
                os.kill(pid, signal.SIGKILL)
        self.ended()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the ledger says."""
        with closing(sqlite3.connect(self.data / "ledger.sqlite3")) as ledger:
            return ledger.execute(query).fetchall()


class Gate:
    """A place in a script where a worker says its pid and waits until the test lets it go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        here = path.with_name(f"{path.name}.here")
        for fifo in (path, here):
            os.mkfifo(fifo)
        # For reading and writing: then they open at once, and what was written waits there for whoever comes next.
        self._fifo, self._here = os.open(path, os.O_RDWR), os.open(here, os.O_RDWR)

    @property
    def step(self) -> str:
        return f"gate {self.path}"

    def reached(self) -> int:
        """Wait for a worker; its pid."""
        waiting = select.poll()
        waiting.register(self._here, select.POLLIN)
        assert waiting.poll(PATIENCE * 1000), "no worker came to the gate"
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._here, 1)
        return int(line)

    def open(self, times: int = 1) -> None:
        os.write(self._fifo, b"." * times)

    def close(self) -> None:
        self.open(100)  # whoever still waits there
        os.close(self._fifo)
        os.close(self._here)


@contextmanager
def gates(folder: Path, *names: str) -> Iterator[list[Gate]]:
    made = [Gate(folder / name) for name in names]
    try:
        yield made
    finally:
        for gate in made:
            gate.close()


def gone(*pids: int) -> None:
    """Wait until all these processes have ended."""
    there = left(pids, PATIENCE)
    assert not there, f"processes {there} are still there"


def told(job: Job) -> Sequence[Event]:
    """What a job's client was told and may not miss, up to the final answer. Its `seq` has no gap and no repetition."""
    events = [event for event in job.events() if not isinstance(event, Progress)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [isinstance(event, Final) for event in events] == [False] * (len(events) - 1) + [True]
    return events


def indexes(events: Sequence[Event]) -> list[int]:
    """Of the partials, in order."""
    return [event.index for event in events if isinstance(event, Partial)]


def steps(trace: Path, label: str = "") -> list[int]:
    """Which steps of a task were computed, in order, over all of its attempts."""
    lines = (line.rstrip("\n").rpartition(" ")[0] for line in trace.read_text().splitlines())
    return [int(step) for name, _, step in (line.partition(" ") for line in lines) if name == label]


def resumed(server: Server, token: str | None, job_ids: list[str]) -> list[Sequence[Event]]:
    """Everything that the jobs have told and tell, to the same client on a new connection."""
    with Client(server.url, token) as client:
        return [told(client.job(job_id)) for job_id in job_ids]
