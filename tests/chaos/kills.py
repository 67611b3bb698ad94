"""Processes killed, stopped and started again, and connections cut, while jobs come in: P1 to P3, P6, P8, P11."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.chaos.caller import Caller
from tests.chaos.report import Ground, say
from tests.drills import MANY, PATIENCE, DrillServer
from tests.processes import descendants, left, parent

CALLERS = 4
AT_ONCE = 6
"""Jobs that a caller has under way."""
POISON_EVERY = 100
"""One job of so many kills its worker."""
LEFT_SECONDS = 2.0
"""After which no process may be left."""
PAUSE_SECONDS = 0.3
"""For which a worker stands still without being taken for stopped."""
WHAT = "kill -9, SIGSTOP, SIGTERM, cuts"


class Storm:
    """The server, its callers, and what is done to them."""

    def __init__(self, ground: Ground, server: DrillServer, jobs: int) -> None:
        self.ground = ground
        self.jobs = jobs
        self.server = server
        self.news = asyncio.Condition()
        self.callers = [Caller(lambda: server.url, self.news) for _ in range(CALLERS)]
        self.done: Counter[str] = Counter()
        self.exits: Counter[int] = Counter()
        self.left = 0
        self.slowest = 0.0

    @property
    def finals(self) -> int:
        return sum(len(caller.finals) for caller in self.callers)

    @property
    def over(self) -> bool:
        return self.finals >= self.jobs

    async def more(self, count: int) -> None:
        """Wait until so many jobs more have ended, or all. Raises: TimeoutError when none goes on any more."""
        wanted = min(self.finals + count, self.jobs)
        await self._until(lambda: self.finals >= wanted)

    async def all_of(self, jobs: set[str]) -> None:
        """Wait until all of these have ended. Raises: TimeoutError."""
        await self._until(lambda: not any(jobs & caller.open for caller in self.callers))

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self.news:
            await self.news.wait_for(true)

    # What is done.

    async def kill_a_worker(self) -> None:
        await self._signal_a_worker(signal.SIGKILL)

    async def stop_a_worker(self) -> None:
        await self._signal_a_worker(signal.SIGSTOP)

    async def stop_a_worker_shortly(self) -> None:
        pid = await self._signal_a_worker(signal.SIGSTOP)
        await asyncio.sleep(PAUSE_SECONDS)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _signal_a_worker(self, number: signal.Signals) -> int:
        return await self._struck(self.ground.chance.choice(("drill", "single")), lambda pid: os.kill(pid, number))

    async def _struck(self, name: str, strike: Callable[[int], object]) -> int:
        """The pid of a worker's process that was struck, once there is one; 0 when no job wants one any more."""
        while not self.over:
            with suppress(LookupError, ProcessLookupError, FileNotFoundError):  # none yet, or it has just gone
                pid = await asyncio.to_thread(self.server.worker, name)
                strike(pid)
                return pid
            await asyncio.sleep(0.02)
        return 0

    async def kill_the_fork_server(self) -> None:
        """It is the parent of the workers."""
        await self._struck("drill", lambda pid: os.kill(parent(pid), signal.SIGKILL))

    async def cut_a_caller(self) -> None:
        await self.ground.chance.choice(self.callers).cut()

    async def kill_the_server(self) -> None:
        await self._end(self.server.kill)

    async def kill_all(self) -> None:
        await self._end(self.server.kill_all)

    async def stop_the_server(self) -> None:
        def stop() -> None:
            self.exits[self.server.stop()] += 1

        await self._end(stop)

    async def _end(self, end: Callable[[], object]) -> None:
        processes = descendants(self.server.pid)
        await asyncio.to_thread(end)
        self.left += len(await asyncio.to_thread(left, processes, LEFT_SECONDS))
        await asyncio.to_thread(self.server.start)


Deed = Callable[[Storm], Awaitable[object]]

WORKERS: tuple[Deed, ...] = (Storm.kill_a_worker, Storm.stop_a_worker, Storm.kill_the_fork_server)
"""Costs the tasks of a worker an attempt, so a job may see two of these and not three."""
DEEDS: tuple[Deed, ...] = (
    *WORKERS,
    *(Storm.kill_the_server, Storm.kill_all, Storm.stop_the_server),
    *(Storm.cut_a_caller, Storm.stop_a_worker_shortly),
)


class Job(NamedTuple):
    message: dict[str, object]
    poison: bool


def job(number: int) -> Job:
    if number % POISON_EVERY == POISON_EVERY // 2:
        return Job({"type": "drill", "script": ["go", "die"]}, poison=True)
    kind = ("drill", "drill", "single")[number % 3]
    return Job({"type": kind, "script": ["go"] * (1 + number % 4)}, poison=False)


async def send(caller: Caller, numbers: list[int]) -> None:
    waiting = iter(numbers)

    async def some() -> None:
        for number in waiting:
            accepted = await caller.submit(f"{number}", job(number).message)
            if accepted:
                await caller.ended(accepted)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def torment(storm: Storm, faults: int) -> None:
    """Fault after fault; between two of them some jobs end, and all that stood under one of a worker's."""
    pause = max(1, storm.jobs // (4 * faults))
    for number in range(faults):
        if storm.over:
            break
        if number % len(DEEDS) == 0:
            turn = storm.ground.chance.sample(DEEDS, len(DEEDS))
        deed = turn[number % len(DEEDS)]
        under_way = {job for caller in storm.callers for job in caller.open}
        await deed(storm)
        storm.done[deed.__name__] += 1
        began = time.monotonic()
        await storm.more(pause)
        storm.slowest = max(storm.slowest, time.monotonic() - began)
        if deed in WORKERS:
            await storm.all_of(under_way)
        if number % 20 == 19:
            say(f"  {number + 1} of {faults} faults, {storm.finals} jobs ended")


async def storm(ground: Ground) -> None:
    """Callers send jobs without a pause, and everything that can die does."""
    faults, jobs = ground.pick(len(DEEDS), 36 * len(DEEDS)), ground.pick(150, 6000)
    short = tempfile.TemporaryDirectory(prefix="storm-")  # a longer path leaves no room for the name of a socket
    temporary = Path(short.name) / "tmp"
    temporary.mkdir()
    server = DrillServer(Path(short.name), DRILL_PRELOAD="1", SINGLE_PRELOAD="1", TMPDIR=str(temporary), **MANY)
    await asyncio.to_thread(server.start)
    raging = Storm(ground, server, jobs)
    lines = [asyncio.create_task(caller.run()) for caller in raging.callers]
    sending = [
        asyncio.create_task(send(caller, list(range(turn, jobs, CALLERS))))
        for turn, caller in enumerate(raging.callers)
    ]
    hanging = 0
    try:
        await torment(raging, faults)
        async with asyncio.timeout(PATIENCE + ground.pick(0, 300)):
            await asyncio.gather(*sending)
    except TimeoutError:
        hanging = sum(len(caller.open) for caller in raging.callers)
        for task in sending:
            task.cancel()
    unknown = sum([await caller.unknown() for caller in raging.callers])
    for caller in raging.callers:
        await caller.leave()
    await asyncio.gather(*lines)
    processes = descendants(server.pid)
    raging.exits[await asyncio.to_thread(server.stop)] += 1
    raging.left += len(await asyncio.to_thread(left, processes, LEFT_SECONDS))
    judge(raging, unknown, hanging)
    short.cleanup()


def judge(storm: Storm, unknown: int, hanging: int) -> None:
    ground, server, callers = storm.ground, storm.server, storm.callers
    accepted = {job: int(key) for caller in callers for key, job in caller.accepted.items()}
    finals = {job: told for caller in callers for job, told in caller.finals.items()}
    good = {each for each, number in accepted.items() if not job(number).poison}
    wrong = [told[0] for each, told in finals.items() if each in good and told[0]["status"] != "success"]
    unspoilt = [
        told for each, told in finals.items() if each in accepted.keys() - good and told[0]["status"] != "error"
    ]
    kept = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
    uneven = "SELECT count(*) FROM (SELECT 1 FROM events GROUP BY job HAVING count(*) < max(seq))"
    finals_of_a_job = "SELECT count(*) FROM events WHERE job = jobs.id AND kind = 'final'"
    ends = f"SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL AND ({finals_of_a_job}) <> 1"
    ground.tried("P1", WHAT, "faults", sum(storm.done.values()))
    ground.tried("P1", WHAT, "jobs accepted", len(accepted))
    ground.count("P1", WHAT, "accepted jobs lost", len(accepted.keys() - finals.keys()) + unknown)
    ground.count("P1", WHAT, "jobs made twice for one idempotency key", sum(caller.changed for caller in callers))
    ground.count("P1", WHAT, "jobs without an end", hanging + server.rows(kept)[0][0])
    ground.count("P2", WHAT, "jobs with two final answers", sum(len(told) > 1 for told in finals.values()))
    ground.count("P2", WHAT, "ended jobs without one final answer in the ledger", server.rows(ends)[0][0])
    ground.tried("P3", WHAT, "events that came again, known by `seq`", sum(caller.again for caller in callers))
    ground.count("P3", WHAT, "gaps in what clients were told", sum(caller.gaps for caller in callers))
    ground.count("P3", WHAT, "gaps in the ledger", server.rows(uneven)[0][0])
    ground.tried("P6", WHAT, "jobs that kill their worker", len(accepted) - len(good))
    ground.count("P6", WHAT, "of these, not set aside", len(unspoilt))
    ground.count("P6", WHAT, "other jobs that failed", len(wrong))
    ground.count("P8", WHAT, "stops by SIGTERM with another status than 0", sum(storm.exits.values()) - storm.exits[0])
    ground.count("P11", WHAT, f"processes left after {LEFT_SECONDS:.0f} s", storm.left)
    files = leftovers(server)
    if files:
        say(f"  left: {', '.join(map(str, files))}")
    ground.count("P11", WHAT, "temporary files left", len(files))
    ground.time("P4", WHAT, "longest pause until jobs ended again, s", storm.slowest, 15)


def leftovers(server: DrillServer) -> list[Path]:
    """Of work that is over. The blobs and uploads of jobs stay until retention."""
    folders = (*(server.data / name for name in ("work", "run", "temporary")), Path(server.settings["TMPDIR"]))
    return [path for folder in folders if folder.exists() for path in folder.iterdir()]
