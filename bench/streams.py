"""How evenly sound arrives: streams in real time through the server, against a bare python-socketio server's.

    .venv/bin/python -m bench.streams [--streams 1 10 50] [--seconds 20] [--rounds 3]

An engine without cost plays pieces of 80 ms (the first has 40), each when its time has come. Three servers, each in
processes of its own, play in turn: the floor, which emits the same pieces from a timer and nothing else, so that what
it shows is the noise of the machine, the library and the client; Optivus with its ledger on tmpfs; and Optivus with it
on disk. All clients live in this process. Every process reads the same monotonic clock, so a piece's delay is its
arrival less the time when it was due.

- first: from sending the message to the first sound.
- delay: arrival less due.
- jitter: a piece's delay less the least of its own stream, over the pieces of all streams; so a stream's p99 is what a
  player would have to hold back to be late once in a hundred pieces.
- CPU: of all the server's processes, for each second of sound.

Streams begin at random within a second; in the rows `together` all of their pieces fall due at the same instants, as
with a model that speaks for all of them in one batch. In the row `stopped reader` one more client asks for a stream at
ten times its real time and never reads: the figures are of the others, and the server's memory tells what it costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import socketio

from bench.workers.player import RATE, PlayerParams, pieces
from gateway.packets import Json
from tests.peers import Raw
from tests.servers import ROOT, Server

BEGIN_WITHIN_SECONDS = 1.0
SLOW_PACE = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve-floor", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    import uvloop

    if args.serve_floor:
        uvloop.run(serve_floor())
        return
    most = max(args.streams)
    scenes = [Scene(str(count), count) for count in args.streams]
    scenes += [Scene(f"{most} together", most, together=True), Scene("10, stopped reader", 10, stopped_reader=True)]
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with contextlib.ExitStack() as stack:
        served = {
            "floor": stack.enter_context(floor()),
            "tmpfs": stack.enter_context(optivus(shm)),
            "disk": stack.enter_context(optivus(str(ROOT))),
        }
        uvloop.run(compare(served, scenes, args.seconds, args.rounds))


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """How many clients listen, and in which way."""

    name: str
    streams: int
    together: bool = False
    stopped_reader: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    url: str
    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """One stream: seconds from asking to the first sound, and each piece's delay in seconds."""

    first: float
    delays: list[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """Of one round, in milliseconds, medians over the streams; cpu: for each second of sound.

    first: nan where streams wait for each other. memory: MB of the server's own process at the end.
    """

    first: float
    delay: float
    p50: float
    p99: float
    worst: float
    cpu: float
    memory: float


async def compare(served: dict[str, Served], scenes: list[Scene], seconds: float, rounds: int) -> None:
    print("| streams | server | first ms | delay ms | jitter p50 ms | p99 ms | max ms | CPU ms/s | memory MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for server in served.values():
        await measure(server, scenes[0], 1.0, random.Random(0))  # the engine's process has started
    for scene in scenes:
        found: dict[str, list[Figures]] = {name: [] for name in served}
        for number in range(rounds):
            for name, server in served.items():
                if name != "floor" or not scene.stopped_reader:  # the floor would keep it all in memory
                    found[name].append(await measure(server, scene, seconds, random.Random(number)))
        for name, figures in found.items():
            if figures:
                columns = [
                    shown([getattr(one, field.name) for one in figures]) for field in dataclasses.fields(Figures)
                ]
                print(f"| {scene.name} | {name} | {' | '.join(columns)} |", flush=True)


def shown(values: list[float]) -> str:
    """The median, with the spread of the rounds."""
    if any(math.isnan(value) for value in values):
        return "-"
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


async def measure(server: Served, scene: Scene, seconds: float, chance: random.Random) -> Figures:
    """One round of one scene on one server."""
    listeners = [Listener() for _ in range(scene.streams)]
    async with contextlib.AsyncExitStack() as stack:
        for one in listeners:
            await one.client.connect(server.url, transports=["websocket"])
            stack.push_async_callback(one.client.disconnect)
        if scene.stopped_reader:
            slow = await stack.enter_async_context(Raw(server.url, read=False))
            ask = {"type": "player", "seconds": seconds * SLOW_PACE, "pace": SLOW_PACE}
            await slow.say(f'42["message",{Json.dumps(ask)}]')
        before = cpu_seconds(server.pid)
        align = 1.0 if scene.together else 0.0
        waits = [chance.uniform(0, BEGIN_WITHIN_SECONDS) for _ in listeners]
        heard = await asyncio.gather(
            *(one.listen(seconds, align, wait) for one, wait in zip(listeners, waits, strict=True))
        )
        cpu = (cpu_seconds(server.pid) - before) / (scene.streams * seconds)
        memory = resident_bytes(server.pid)
    delays = sorted(delay * 1e3 for one in heard for delay in one.delays)
    jitter = sorted((delay - min(one.delays)) * 1e3 for one in heard for delay in one.delays)
    return Figures(
        first=math.nan if scene.together else statistics.median(one.first for one in heard) * 1e3,
        delay=delays[len(delays) // 2],
        p50=jitter[len(jitter) // 2],
        p99=jitter[int(len(jitter) * 0.99)],
        worst=jitter[-1],
        cpu=cpu * 1e3,
        memory=memory / 1e6,
    )


class Listener:
    """One client with one stream."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(json=Json, reconnection=False)
        self.client.on("audio", self._on_audio)
        self.client.on("message", self._on_message)
        self._arrived: list[float] = []
        self._answer: asyncio.Future[dict[str, Any]] | None = None

    async def listen(self, seconds: float, align: float, wait: float) -> Heard:
        await asyncio.sleep(wait)
        self._answer = asyncio.get_running_loop().create_future()
        asked = time.monotonic()
        await self.client.emit("message", {"type": "player", "seconds": seconds, "align": align})
        answer = await self._answer
        delays = [arrived - due for arrived, due in zip(self._arrived, answer["due"], strict=True)]
        return Heard(self._arrived[0] - asked, delays)

    async def _on_audio(self, body: dict[str, Any]) -> None:
        assert body["index"] == len(self._arrived), "a piece is missing"
        self._arrived.append(time.monotonic())

    async def _on_message(self, body: dict[str, Any]) -> None:
        assert self._answer is not None
        self._answer.set_result(body)


@contextlib.contextmanager
def optivus(folder: str | None) -> Iterator[Served]:
    settings = {"WORKERS_PATH": str(ROOT / "bench/workers"), "PLAYER_PRELOAD": "1"}
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".bench-") as data,
        Server(Path(data), **settings) as server,
    ):
        yield Served(server.url, server.pid)


@contextlib.contextmanager
def floor() -> Iterator[Served]:
    command = [sys.executable, "-m", "bench.streams", "--serve-floor"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(process.stdout.readline().strip(), process.pid)
        finally:
            process.terminate()


async def serve_floor() -> None:
    """The same library, event loop, JSON and pieces, and nothing else. Says its address on stdout."""
    from aiohttp import web

    server = socketio.AsyncServer(async_mode="aiohttp", json=Json, http_compression=False)

    async def play(sid: str, message: dict[str, Any]) -> None:
        due = []
        async for piece in pieces(PlayerParams.model_validate(message)):
            place = {"stage": "player", "item": None, "index": piece.index, "start": piece.start, "sample_rate": RATE}
            body = {"job_id": sid, "id": None, "seq": piece.index + 1, **place, "audio": piece.samples.tobytes()}
            await server.emit("audio", body, to=sid)
            due.append(piece.due)
        await server.emit("message", {"due": due}, to=sid)

    server.on("message", play)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def cpu_seconds(pid: int) -> float:
    """What a process and its living descendants have used so far."""
    used, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            process = int(stat.parent.name)
            parents[process], used[process] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(used[process] for process in family) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
