"""A disk that is full, and a device without memory: P9 and P10."""

from __future__ import annotations

import resource
from pathlib import Path

from client import Client, Job, OptivusError
from tests.chaos.report import Ground
from tests.drills import MANY, DrillServer, resumed
from tests.toys.glutton import MEMORY

PIECE = "x" * 1000


def full_disk(ground: Ground) -> None:
    """Full for one process: no file of it may grow. It is full while jobs are sent, and again while they run."""
    what = "a full disk"
    times = ground.pick(2, 20)
    refused = wrong = 0
    accepted: list[str] = []
    with DrillServer(ground.folder, **MANY) as server:
        with Client(server.url) as client:
            accepted.append(client.submit("drill", script=["go"]).id)
            for _ in range(times):
                limit = max(file.stat().st_size for file in server.data.glob("ledger.sqlite3*"))
                limit += ground.chance.randrange(4096, 200_000)
                unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (limit, unlimited[1]))
                code = ""
                while not code:
                    try:
                        accepted.append(client.submit("drill", script=[PIECE] * ground.chance.randrange(1, 9)).id)
                    except OptivusError as exc:
                        code = exc.code
                refused += 1
                wrong += code != "DISK_FULL"
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
                accepted.append(client.submit("drill", script=["go"]).id)
            ends = [events[-1] for events in resumed(server, client.token, accepted)]
            failed = sum(getattr(end, "status", None) != "success" for end in ends)
        healthy = server.rows("PRAGMA integrity_check") == [("ok",)]
    ground.tried("P9", what, "jobs accepted", len(accepted))
    ground.tried("P9", what, "times full", refused)
    ground.count("P9", what, "refusals by another error than DISK_FULL", wrong)
    ground.count("P9", what, "accepted jobs lost or failed", failed)
    ground.count("P9", what, "ledgers damaged", not healthy)


def no_memory(ground: Ground) -> None:
    """A device on which every batch with a greedy unit runs out of memory, and one worker without a model."""
    what = "a device that runs out of memory"
    count = ground.pick(30, 600)
    greedy = {number for number in range(count) if ground.chance.random() < 0.1}
    toys = Path(__file__).parent.parent / "toys"
    server = DrillServer(ground.folder, WORKERS_PATH=str(toys), **MANY)
    with server, Client(server.url) as client:
        jobs = [client.submit("glutton", asks=MEMORY + 1 if each in greedy else each % 3) for each in range(count)]
        codes = [_code(job) for job in jobs]
    ground.tried("P10", what, "jobs", count)
    ground.tried("P10", what, "of these, beyond the memory", len(greedy))
    wrong = {number for number, code in enumerate(codes) if code == "OUT_OF_MEMORY"} ^ greedy
    ground.count("P10", what, "jobs that failed though there was memory, or did not though there was none", len(wrong))
    others = sum(code not in ("", "OUT_OF_MEMORY") for code in codes)
    ground.count("P10", what, "jobs that failed by another error", others)


def _code(job: Job) -> str:
    """Of its error; empty when it succeeded."""
    try:
        job.result()
    except OptivusError as exc:
        return exc.code
    return ""
