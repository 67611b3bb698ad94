"""What one client can do to another: floods, readers that stop, and messages made to be dear.

    .venv/bin/python -m bench.attack [--code FOLDER …] [--only flood readers …] [--rounds 3] [--seconds 3]

One server with workers that compute nothing, its ledger on tmpfs. A victim sends one message at a time, first alone and
then until another process has done its attack; its latencies are those of the acknowledgement and of the answer. Memory
is the server's own process, without its workers, looked at fifty times a second. With the checkouts of two commits as
`--code` the same program measures both in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import socketio

from gateway.packets import Json
from tests.peers import Raw

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
FLOOD = 20_000
READERS = 10
JOBS_EACH = 20
BULK = {"type": "bulk", "partials": 20, "partial_bytes": 60_000, "result_bytes": 2_500_000}
PATIENCE = 120.0
"""Seconds for which a victim waits for one answer."""


class Served(NamedTuple):
    url: str
    pid: int
    folder: Path


class Figures(NamedTuple):
    """Milliseconds of the victim's messages."""

    acknowledged: list[float]
    answered: list[float]

    def row(self) -> list[float]:
        """Median, 99th percentile and worst of each latency."""
        return [figure for each in self for figure in (at(each, 0.5), at(each, 0.99), max(each))]


def at(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


# The attackers, each in a process of its own; they return when they are done.


@contextlib.asynccontextmanager
async def known(url: str) -> AsyncIterator[Raw]:
    """A client with a token, which is limited alone; without one all of this machine would be limited together."""
    async with Raw(url, await new_token(url)) as raw:
        yield raw


async def new_token(url: str) -> str:
    async with Raw(url) as raw:
        return str(raw.session["token"])


async def flood(url: str, folder: Path, count: int = FLOOD) -> None:
    """Messages beyond the client's limit of open jobs, sent as fast as they are taken, all of them answered."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    await _flooded(url, {"type": "stuck", "pipe": str(pipe)}, count)


async def accepted(url: str, folder: Path) -> None:
    """Messages that may all be accepted, since each job ends at once."""
    await _flooded(url, {"type": "noop"}, FLOOD)


async def _flooded(url: str, message: dict[str, Any], count: int) -> None:
    text = orjson.dumps(["message", message]).decode()
    async with known(url) as raw:

        async def say() -> None:
            for number in range(count):
                await raw.socket.send_str(f"42{number}{text}")

        saying = asyncio.create_task(say())
        heard = 0
        while heard < count:
            packet = await raw.socket.receive()
            heard += packet.type is aiohttp.WSMsgType.TEXT and packet.data.startswith("43")
            if packet.type is aiohttp.WSMsgType.TEXT and packet.data == "2":
                await raw.socket.send_str("3")
        await saying


async def readers(url: str, folder: Path) -> None:
    """Clients that ask for large answers with large partials, and read nothing more."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(READERS):
            raw = await stack.enter_async_context(known(url))
            packet = "42" + orjson.dumps(["message", BULK]).decode()
            for _ in range(JOBS_EACH):
                await raw.say(packet)
        while await open_jobs(url) < READERS:  # noqa: ASYNC110 - they are being read
            await asyncio.sleep(0.02)
        while await open_jobs(url) > 1:  # noqa: ASYNC110 - the victim may have one
            await asyncio.sleep(0.2)


async def open_jobs(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as response:
        return int((await response.json())["open_jobs"])


async def nested(url: str, folder: Path) -> None:
    """15 MB of empty lists within a list."""
    async with Raw(url) as raw:
        for number in range(3):
            await raw.say(f'42{number}["message",[' + "[]," * 5_000_000 + "[]]]")
            await raw.acknowledged(number)


async def resumes(url: str, folder: Path) -> None:
    """A hundred resumes of a thousand jobs that never were."""
    jobs = {f"job_{number:024x}": 1 for number in range(1000)}
    text = orjson.dumps(["message", {"type": "resume", "jobs": jobs}]).decode()
    async with Raw(url) as raw:
        await raw.say(*(f"42{number}{text}" for number in range(100)))
        for number in range(100):
            await raw.acknowledged(number)


ATTACKS: dict[str, Callable[..., Awaitable[None]]] = {
    each.__name__: each for each in (flood, accepted, readers, nested, resumes)
}


def attacker(name: str, url: str, folder: Path) -> None:
    os.nice(10)  # it stands for another machine: only its cost to the server counts
    asyncio.run(ATTACKS[name](url, folder))  # type: ignore[arg-type]


# The victim.


class Victim:
    """A client with one message under way."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.client = socketio.AsyncClient(json=Json, reconnection=False)
        self.client.on("message", self._on_message)
        self._answered: asyncio.Future[None] | None = None

    async def _on_message(self, body: object) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def call(self) -> tuple[float, float]:
        """Seconds until the acknowledgement and until the answer."""
        loop = asyncio.get_running_loop()
        self._answered, acknowledged = loop.create_future(), loop.create_future()
        began = time.perf_counter()

        def acknowledge(answer: object) -> None:
            acknowledged.set_result(time.perf_counter() - began)

        async with asyncio.timeout(PATIENCE):
            await self.client.emit("message", {"type": "noop", "value": "x" * 150}, callback=acknowledge)
            await self._answered
            return await acknowledged, time.perf_counter() - began

    async def until(self, over: Callable[[], bool]) -> Figures:
        figures = Figures([], [])
        while not over():
            for column, seconds in zip(figures, await self.call(), strict=True):
                column.append(seconds * 1e3)
        return figures


def resident(pid: int) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


async def watch(pid: int, peaks: list[float]) -> None:
    """Resident MiB of a process, fifty times a second."""
    while True:
        peaks.append(resident(pid))
        await asyncio.sleep(0.02)


async def suffer(served: Served, name: str, seconds: float) -> tuple[list[float], list[float]]:
    """Two rows: the victim alone, then under attack; each with the seconds that it took and the most memory."""
    victim, memory = Victim(served.url), [0.0]
    await victim.client.connect(served.url, auth={"token": await new_token(served.url)}, transports=["websocket"])
    for _ in range(50):
        await victim.call()
    began = time.perf_counter()
    alone = await victim.until(lambda: time.perf_counter() - began > seconds)
    memory.clear()
    watching = asyncio.create_task(watch(served.pid, memory))
    await asyncio.sleep(0.1)
    before = memory[-1]
    process = multiprocessing.get_context("spawn").Process(target=attacker, args=(name, served.url, served.folder))
    began = time.perf_counter()
    process.start()
    attacked = await victim.until(lambda: not process.is_alive())
    took = time.perf_counter() - began
    watching.cancel()
    await victim.client.disconnect()
    if process.exitcode:
        print(f"the attack {name} failed after {took:.0f} s", file=sys.stderr)
    return [*alone.row(), seconds, before], [*attacked.row(), took, max(memory)]


def compare(name: str, codes: list[Path], rounds: int, seconds: float) -> None:
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for _ in range(rounds):
        for code in codes:
            with serving(code.resolve()) as served:
                rows = asyncio.run(suffer(served, name, seconds))
            for state, row in zip(("alone", "attacked"), rows, strict=True):
                found[code.name, state].append(row)
    for (code_name, state), rounds_of_it in found.items():
        columns = [sorted(column) for column in zip(*rounds_of_it, strict=True)]
        shown = [f"{statistics.median(column):.4g} ({column[0]:.3g}-{column[-1]:.3g})" for column in columns]
        print(f"| {name} | {code_name} | {state} | {' | '.join(shown)} |", flush=True)


@contextlib.contextmanager
def serving(code: Path) -> Iterator[Served]:
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shm, prefix="bench-") as data:
        names = {name: str(Path(data) / name.lower()) for name in ("DATA_DIR", "VOICES_DIR", "FS_PATH", "PATH_VIDEO")}
        settings = {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "REQUESTS_PER_SECOND": "0",
            "WORKERS_PATH": str(ROOT / "bench/workers"),
            "NOOP_PRELOAD": "1",
        }
        env = {**os.environ, **names, **settings, "LOG_LEVEL": "info"}
        log = Path(data) / "log"
        with log.open("w") as errors:
            process = subprocess.Popen([sys.executable, "server.py"], cwd=code, env=env, stderr=errors)
            try:
                while not (port := re.search(r"http://[\w.]+:(\d+)", log.read_text())):
                    if process.poll() is not None:
                        raise RuntimeError(log.read_text())
                    time.sleep(0.05)
                yield Served(f"http://127.0.0.1:{port[1]}", process.pid, Path(data))
            finally:
                process.terminate()
                process.wait(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--code", type=Path, nargs="+", default=[ROOT])
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    print("| attack | code | | ack p50 ms | p99 | max | answer p50 ms | p99 | max | took s | peak MiB |")
    print("|---" * 11 + "|", flush=True)
    for name in args.only:
        compare(name, args.code, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
