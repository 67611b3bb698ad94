"""Whether a GPU would ever wait for what stands around the model: Whisper's worker with a stand-in of a GPU's speed.

    .venv/bin/python -m bench.feed --model DIR [--speeds 50 100 200] [--clients 16] [--minutes 20] [--rounds 3]

The stand-in (`bench/workers/fed.py`) takes as long as a GPU that transcribes so many seconds of sound in a second, and
leaves the CPU alone meanwhile. `in turn` is the floor: the same worker without a lane, where one thread prepares,
computes and writes down in turn. The server does many recordings of two minutes, of as many clients, and one long one.

Duty is the share of the time in which the stand-in computes. `cores` are those that the worker keeps busy; what a GPU
of this speed needs follows from the CPU time of a second of sound, whether this machine has so many or not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.nvml import Gpu
from bench.gpu.recordings import Recording, make_recordings
from bench.gpu.served import Library, wait_until_ready
from bench.gpu.table import middle, spread
from bench.gpu.turns import Figures, Found, Turn, forward_seconds, of_process, take_turns
from bench.roundtrip import ROOT
from bench.whisper import client
from tests.servers import Server

WORKERS = Path(__file__).parent / "workers"
SECONDS = 120.0
RATE = "x real time"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="a folder with a small Whisper")
    parser.add_argument("--speech", type=Path, default=Path("/nowhere"), help="a folder of clips, else the example")
    parser.add_argument("--speeds", type=float, nargs="+", default=[50.0, 100.0, 200.0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the long recording")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"| speed | who | {RATE} (spread) | duty (spread) | cores | cores that this speed needs |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as name:
        folder = Path(name)
        files = make_recordings(folder, args.speech, 2 * args.clients, SECONDS)
        long = make_recordings(folder, args.speech, 1, 60 * args.minutes)
        for speed in args.speeds:
            measure(folder, args, speed, files, long)


def measure(
    folder: Path, args: argparse.Namespace, speed: float, files: list[Recording], long: list[Recording]
) -> None:
    settings = {"AI_FED_MODEL": str(args.model), "FED_SPEED": str(speed)}
    alone = Library(_load, str(WORKERS), str(args.model), speed, str(folder))
    with alone, serving(folder, settings) as server:

        def turn(who: str, recordings: list[Recording], clients: int) -> Turn:
            return Turn(
                who,
                lambda: swarm(server.url, recordings, clients),
                lambda: {"worker": of_process(server.worker("fed"))},
                lambda: forward_seconds(server.url, "fed"),
            )

        paths = [str(file.path) for file in files]
        turns = [
            alone.turn("in turn", lambda: alone.call(_in_turn, paths)),
            turn(f"server, {args.clients} clients", files, args.clients),
            turn(f"server, one of {args.minutes:g} min", long, 1),
        ]
        found = take_turns(turns, time.perf_counter() + 600 * args.rounds, Gpu(), args.rounds)
    print_rows(speed, found)


def print_rows(speed: float, found: Found) -> None:
    for who, taken in found.items():
        duty = [one.figures.get("duty", one.forward or 0.0) for one in taken]
        cores = sum(sum(one.cores.values()) for one in taken) / len(taken)
        rate = middle(taken, RATE)
        needs = cores / rate * speed
        rates = spread([one.figures[RATE] for one in taken])
        print(f"| {speed:g} | {who} | {rates} | {spread(duty)} | {cores:.2f} | {needs:.2f} |", flush=True)


@contextlib.contextmanager
def serving(folder: Path, settings: dict[str, str]) -> Iterator[Server]:
    off = dict.fromkeys(("AI_WHISPER_MODEL", "AI_FISH_MODEL", "AI_FLORENCE_MODEL"), "none")
    own = {"WORKERS_PATH": str(WORKERS), "MEDIA_ROOTS": str(folder), "FED_PRELOAD": "1", "DRAIN_SECONDS": "1"}
    with Server(folder / "data", **off, **own, **settings) as server:
        wait_until_ready(server, "fed")
        yield server


def swarm(url: str, files: list[Recording], count: int) -> Figures:
    """By so many clients, of whom each sends the next recording when the last is answered."""
    began = time.perf_counter()
    asyncio.run(_heard(url, files, count))
    return {RATE: sum(file.seconds for file in files) / (time.perf_counter() - began)}


async def _heard(url: str, files: list[Recording], count: int) -> None:
    left = list(files)

    async def drive() -> None:
        async with client(url, "fed") as one:
            while left:
                await one.send(left.pop().path, word_timestamps=True)
                assert (await one.answers.get())["fed"]["text"]

    await asyncio.gather(*(drive() for _ in range(count)))


# In a process of its own, without a server: the floor.

_worker: Any = None


def _load(workers: str, model: str, speed: float, folder: str) -> None:
    global _worker  # noqa: PLW0603 - a process pool has no other place for what was loaded
    from contract.folders import Folders

    sys.path.insert(0, workers)
    fed: Any = importlib.import_module("fed")
    data = Path(folder) / "alone"
    folders = Folders((Path(folder),), data, voices=data, speech=data, downloads=data)
    _worker = fed.Fed(fed.FedSettings(model=model, speed=speed, threads=os.cpu_count() or 1), folders)
    _worker.load()


def _in_turn(paths: list[str]) -> dict[str, float]:
    from contract.messages import Event, FileRef, Task
    from workers.runtime.engine import Engine

    events: list[Event] = []
    began = time.perf_counter()
    engine = Engine(_worker, events.append)
    for path in paths:
        params = {"file": FileRef("path", path), "word_timestamps": True}
        engine.add(Task(path, "fed", (), "fed", params, client="c"))
    while engine.busy:
        engine.step()
    took = time.perf_counter() - began
    assert [event.kind for event in events if event.kind in ("done", "failed")] == ["done"] * len(paths)
    return {RATE: SECONDS * len(paths) / took, "duty": engine.forward_seconds / took}


if __name__ == "__main__":
    main()
