"""Round trip of a no-op job against a bare python-socketio echo of the same settings.

    .venv/bin/python -m bench.roundtrip [--clients 1 10 100] [--rounds 7] [--seconds 2]

Three servers, each in a process of its own: the echo, Optivus with its ledger on tmpfs, and Optivus with it on disk.
One client process drives them in turn, so that a machine whose speed drifts is fair to all. Every client sends the next
message when the answer to the last has come; latency is from sending to the answer (`message`), not the
acknowledgement. A job on disk costs two commits, so a single row's commit there is measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import socketio

from gateway.packets import Json

ROOT = Path(__file__).resolve().parent.parent
PAYLOAD = {"type": "noop", "value": "x" * 150}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--serve-echo", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_echo:
        serve_echo()
        return
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with contextlib.ExitStack() as stack:
        urls = {
            "echo": stack.enter_context(echo_server()),
            "optivus, tmpfs": stack.enter_context(optivus(shm)),
            "optivus, disk": stack.enter_context(optivus(str(ROOT))),
        }
        import uvloop

        uvloop.run(compare(urls, args.clients, args.rounds, args.seconds))
    commits = [commit_ms(str(ROOT)) for _ in range(args.rounds)]
    print(f"one commit on disk: {statistics.median(commits):.2f} ms ({min(commits):.2f}-{max(commits):.2f})")


def commit_ms(folder: str, times: int = 200) -> float:
    """Median milliseconds of committing one small row, as durably as the ledger does."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".bench-") as data:
        db = sqlite3.connect(Path(data) / "one.sqlite3", isolation_level=None)
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE one (body TEXT)")
        took = []
        for _ in range(times):
            began = time.perf_counter()
            db.execute("INSERT INTO one VALUES (?)", ("x" * 500,))
            took.append(time.perf_counter() - began)
        db.close()
    return statistics.median(took) * 1e3


async def compare(urls: dict[str, str], clients: list[int], rounds: int, seconds: float) -> None:
    print("| clients | server | median ms (spread of rounds) | p99 ms | answers/s (spread) |\n|---|---|---|---|---|")
    for count in clients:
        swarms = {name: await connect(url, count) for name, url in urls.items()}
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in urls}
        for swarm in swarms.values():
            await drive(swarm, 0.5)
        for _ in range(rounds):
            for name, swarm in swarms.items():
                found[name].append(await drive(swarm, seconds))
        for name, figures in found.items():
            p50, p99, rate = (list(column) for column in zip(*figures, strict=True))
            print(
                f"| {count} | {name} | {statistics.median(p50):.2f} ({min(p50):.2f}-{max(p50):.2f}) "
                f"| {statistics.median(p99):.2f} | {statistics.median(rate):.0f} ({min(rate):.0f}-{max(rate):.0f}) |",
                flush=True,
            )
        for swarm in swarms.values():
            await asyncio.gather(*(one.client.disconnect() for one in swarm))


class Caller:
    """One client with one message under way."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(json=Json, reconnection=False)
        self.answered: asyncio.Future[None] | None = None
        self.client.on("message", self._on_message)

    async def _on_message(self, body: object) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)

    async def call(self) -> float:
        self.answered = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        await self.client.emit("message", PAYLOAD)
        await self.answered
        return time.perf_counter() - began


async def connect(url: str, count: int) -> list[Caller]:
    swarm = [Caller() for _ in range(count)]
    for one in swarm:
        await one.client.connect(url, transports=["websocket"])
    return swarm


async def drive(swarm: list[Caller], seconds: float) -> tuple[float, float, float]:
    """(median ms, 99th percentile ms, answers a second)."""
    end = time.perf_counter() + seconds
    took: list[float] = []

    async def loop(one: Caller) -> None:
        while time.perf_counter() < end:
            took.append(await one.call())

    await asyncio.gather(*(loop(one) for one in swarm))
    took.sort()
    return took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, len(took) / seconds


@contextlib.contextmanager
def optivus(folder: str | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".bench-") as data:
        settings = {
            "DATA_DIR": data,
            "PORT": "0",
            "REQUESTS_PER_SECOND": "0",
            "WORKERS_PATH": str(ROOT / "bench/workers"),
            "NOOP_PRELOAD": "1",
        }
        yield from serving(
            [sys.executable, "server.py"], {**settings, "MAX_OPEN_JOBS": "10000", "MAX_OPEN_JOBS_PER_CLIENT": "10000"}
        )


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    yield from serving([sys.executable, "-m", "bench.roundtrip", "--serve-echo"], {})


def serving(command: list[str], settings: dict[str, str]) -> Iterator[str]:
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if port := re.search(r"http://[\w.]+:(\d+)", line):
                yield f"http://127.0.0.1:{port[1]}"
                break
    finally:
        process.terminate()
        process.communicate(timeout=20)


def serve_echo() -> None:
    """The floor: the same library, event loop, JSON and compression settings, and nothing else."""
    import uvloop
    from aiohttp import web

    server = socketio.AsyncServer(async_mode="aiohttp", json=Json, http_compression=False)

    async def echo(sid: str, body: object) -> None:
        await server.emit("message", body, to=sid)

    server.on("message", echo)

    async def run() -> None:
        app = web.Application()
        server.attach(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", file=sys.stderr, flush=True)
        await asyncio.Event().wait()

    uvloop.run(run())


if __name__ == "__main__":
    main()
