"""`flrnc`: captions a second through the server, and what looking through a film costs.

    AI_FLORENCE_MODEL=… .venv/bin/python -m bench.captions [--clients 1 4 8] [--seconds 5] [--rounds 3] [--minutes 10]

The first table drives one server with pictures, each client sending the next when the last is answered, in turns with a
bare loop over the same model in a process of its own; the batch is the server's. The second watches a film of shapes in
720p, encoded in three ways, against decoding every frame of it; the third watches two lengths of it in fresh processes
and compares the most memory that each has used.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import socketio

from bench.roundtrip import ROOT, serving
from gateway.packets import Json
from tests.shapes import drawing, noisy, stills, write_film

KINDS = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow")
DRAWINGS = [drawing(f"{colour} {kind}") for kind in KINDS for colour in COLOURS]
RATE = 25
ENCODINGS: dict[str, dict[str, Any]] = {
    "keyframe every 2 s": {"scene_cuts": False, "gop": 2 * RATE},
    "keyframe at cuts, else every 10 s": {"gop": 10 * RATE},
    "keyframe every 10 s": {"scene_cuts": False, "gop": 10 * RATE},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loop", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.watch:
        print(*watched(args.watch))
    elif args.loop:
        print(bare_loop(args.loop))
    else:
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder:
            compare_captions(Path(folder), args.clients, args.seconds, args.rounds)
            compare_watching(Path(folder), args.minutes)


def compare_captions(folder: Path, clients: list[int], seconds: float, rounds: int) -> None:
    for number, what in enumerate(DRAWINGS):
        what.image().save(folder / f"{number}.png")
    found: dict[str, list[float]] = {name: [] for name in ("bare loop", *(f"{count} clients" for count in clients))}
    with server(folder) as url:
        asyncio.run(drive(url, 1, 1.0))  # loads the model
        for _ in range(rounds):
            found["bare loop"].append(float(own("--loop", str(seconds))))
            for count in clients:
                found[f"{count} clients"].append(asyncio.run(drive(url, count, seconds)))
    print("| | captions/s (spread) | of one client's |\n|---|---|---|")
    one = statistics.median(found["1 clients"]) if 1 in clients else None
    for name, rates in found.items():
        share = f"{statistics.median(rates) / one:.2f}" if one else "-"
        print(f"| {name} | {statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f}) | {share} |", flush=True)


async def drive(url: str, count: int, seconds: float) -> float:
    """Captions a second of so many clients."""
    end = time.perf_counter() + seconds
    done = 0

    async def one(first: int) -> None:
        nonlocal done
        client = socketio.AsyncClient(json=Json, reconnection=False)
        answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        client.on("message", answers.put)
        await client.connect(url, transports=["websocket"])
        number = first
        while time.perf_counter() < end:
            await client.emit("message", {"type": "flrnc", "file": f"{number % len(DRAWINGS)}.png"})
            answer = await answers.get()
            assert answer["status"] == "success", answer
            done += 1
            number += 1
        await client.disconnect()

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(count)))
    return done / (time.perf_counter() - began)


def bare_loop(seconds: float) -> float:
    """Captions a second of the model alone, one after the other, with as many threads as the server gives it."""
    from config import Settings, load_workers
    from contract.messages import FileRef
    from media.pictures import Picture
    from workers.base import ModelSettings
    from workers.florence.params import FlorenceParams
    from workers.florence.worker import Florence

    settings = Settings()
    worker, given = load_workers(settings)["florence"]
    assert isinstance(given, ModelSettings)
    florence = worker(given.model_copy(update={"threads": given.threads or os.cpu_count() or 1}), settings.folders)
    assert isinstance(florence, Florence)
    florence.load()
    params = FlorenceParams(file=FileRef("path", "a.png"))
    units = [florence.unit(params, Picture(what.image(), (640, 360))) for what in DRAWINGS]
    florence.forward(units[:1])
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        florence.forward([units[done % len(units)]])
        done += 1
    return done / (time.perf_counter() - began)


def compare_watching(folder: Path, minutes: float) -> None:
    shown = [(what, 7.0) for what in DRAWINGS] * round(minutes * 60 / 7 / len(DRAWINGS) + 0.5)
    shown = shown[: round(minutes * 60 / 7)]
    print("\n| film | CPU s, watched | CPU s, every frame decoded | scenes (true) |\n|---|---|---|---|")
    for name, options in ENCODINGS.items():
        film = folder / f"{options['gop']}{options.get('scene_cuts', True)}.mp4"
        write_film(film, noisy(stills(shown, RATE, (1280, 720)), 3), rate=RATE, preset="superfast", **options)
        scenes, cpu, _ = own("--watch", str(film)).split()
        print(f"| {name} | {cpu} | {decoding_cost(film):.1f} | {scenes} ({len(shown)}) |", flush=True)
    print("\n| film | MB at most |\n|---|---|")
    for times in (1, 12):
        long = repeated(film, folder / "long.mp4", times)
        print(f"| {minutes * times:.0f} min | {own('--watch', str(long)).split()[2]} |", flush=True)


def watched(film: Path) -> tuple[int, float, int]:
    """Scenes found, CPU seconds, and the most MB that this process has used."""
    from media.frames import film as opened
    from media.frames import watch

    began = time.process_time()
    with opened(film) as shown:
        scenes = sum(scene is not None for scene in watch(shown, 1.0))
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return scenes, round(time.process_time() - began, 1), int(peak[1]) // 1000 if peak else 0


def decoding_cost(film: Path) -> float:
    began = time.process_time()
    with av.open(str(film)) as container:
        for _ in container.decode(video=0):
            continue
    return time.process_time() - began


def repeated(film: Path, target: Path, times: int) -> Path:
    """A film so many times after itself, without encoding it again."""
    with av.open(str(target), "w") as out:
        stream: Any = None
        for number in range(times):
            with av.open(str(film)) as container:
                source = container.streams.video[0]
                stream = stream or out.add_stream_from_template(source)
                shift = number * round(container.duration / av.time_base / source.time_base)
                for packet in container.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        out.mux(packet)
    return target


def own(*arguments: str) -> str:
    """What this module prints in a process of its own."""
    return subprocess.check_output([sys.executable, "-m", "bench.captions", *arguments], cwd=ROOT, text=True)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    settings = {"DATA_DIR": str(folder / "data"), "MEDIA_ROOTS": str(folder), "PORT": "0"}
    yield from serving([sys.executable, "server.py"], settings)


if __name__ == "__main__":
    main()
