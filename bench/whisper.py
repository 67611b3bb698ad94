"""`whisp` through a real server against faster-whisper called directly, and how long others wait for a long recording.

    .venv/bin/python -m bench.whisper SPEECH --model DIR [--clients 1 4 16] [--rounds 3] [--minutes 120] [--parts …]

SPEECH is a folder of short clips with `transcripts.json`: [{"file", "language", "text"}, …]. From the English ones it
makes recordings of many lengths, joined with pauses. Four tables:

- `rate`: seconds of recording transcribed in a second, by the server with so many clients, and by `WhisperModel` and
  `BatchedInferencePipeline` one recording after the other; the same beam, VAD and words, in turns, with the word error
  rate of each.
- `partial`: from sending a recording of ten minutes to its first chunk, against faster-whisper's first segment.
- `wait`: a clip of 5 s alone, and at random moments of a long transcription.
- `memory`: the most that the worker's process has used for ten minutes and for the long recording.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import socketio

from bench.roundtrip import ROOT, serving
from gateway.packets import Json
from media.audio import SAMPLE_RATE, Audio, decode
from tests.accuracy import edit_distance, words
from tests.recordings import write

LENGTHS = (60, 90, 20, 5, 11, 40, 60, 5, 20, 11, 5, 11)
"""About so many seconds of recordings make one round of `rate`."""
BEAM = 5
PAUSES = (0.4, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("speech", type=Path)
    parser.add_argument("--model", required=True, help="a hub id or a folder")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--parts", nargs="+", default=["rate", "partial", "wait", "memory"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as name:
        folder = Path(name)
        bench = Bench(folder, args)
        for part in args.parts:
            with server(folder, args) as bench.url:
                asyncio.run(getattr(bench, part)())


@contextlib.contextmanager
def server(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    settings = {
        "DATA_DIR": str(folder / "data"),
        "MEDIA_ROOTS": str(folder),
        "PORT": "0",
        "AI_WHISPER_MODEL": args.model,
    }
    settings |= {"WHISPER_THREADS": str(args.threads), "WHISPER_BEAM_SIZE": str(BEAM), "WHISPER_PRELOAD": "1"}
    yield from serving([sys.executable, "server.py"], settings)


class Bench:
    """folder: for the recordings, which the server may read."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.url = ""
        self._folder = folder
        self._args = args
        clips = [
            clip for clip in json.loads((args.speech / "transcripts.json").read_text()) if clip["language"] == "en"
        ]
        self._clips = [(np.concatenate(list(decode(args.speech / clip["file"]))), clip["text"]) for clip in clips]
        self._model: Any = None

    # The tables.

    async def rate(self) -> None:
        files = [self._recording(f"{number}.flac", seconds, number) for number, seconds in enumerate(LENGTHS)]
        total = sum(seconds for _, _, seconds in files)
        direct: dict[str, Callable[[Path], str]] = {
            "WhisperModel": self._one,
            "BatchedInferencePipeline": self._batched,
        }
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(self._args.rounds):
            for name, transcribe in direct.items():
                began = time.perf_counter()
                heard = [transcribe(path) for path, _, _ in files]
                found.setdefault(name, []).append((total / (time.perf_counter() - began), error_rate(files, heard)))
            for count in self._args.clients:
                began = time.perf_counter()
                heard = await self._swarm([path for path, _, _ in files], count)
                name = f"server, {count} clients"
                found.setdefault(name, []).append((total / (time.perf_counter() - began), error_rate(files, heard)))
        best = max(statistics.median(rate for rate, _ in found[name]) for name in direct)
        print(f"\n{len(files)} recordings, {total:.0f} s; words: {self._args.words}")
        print("| | seconds of sound a second (spread) | of the faster direct one's | WER |\n|---|---|---|---|")
        for name, runs in found.items():
            rates, errors = zip(*runs, strict=True)
            middle = statistics.median(rates)
            print(
                f"| {name} | {middle:.1f} ({min(rates):.1f}-{max(rates):.1f}) | {middle / best:.2f} "
                f"| {statistics.median(errors):.3f} |",
                flush=True,
            )

    async def partial(self) -> None:
        path, _, _ = self._recording("ten.flac", 600, 1)
        ours, theirs = [], []
        for _ in range(self._args.rounds):
            began = time.perf_counter()
            next(iter(self._loaded().transcribe(str(path), language="en", beam_size=BEAM, vad_filter=True)[0]))
            theirs.append(time.perf_counter() - began)
            async with client(self.url) as one:
                began = time.perf_counter()
                job = await one.send(path)
                await one.partials.get()
                ours.append(time.perf_counter() - began)
                await one.cancel(job)
        print(f"\nfirst partial of ten minutes: {shown(ours)} s; WhisperModel's first segment: {shown(theirs)} s")

    async def wait(self) -> None:
        clip, _, _ = self._recording("clip.flac", 5, 1)
        path, _, _ = self._recording("long.flac", self._args.minutes * 60, 2)
        async with client(self.url) as one, client(self.url) as long:
            alone = [await one.timed(clip) for _ in range(11)][1:]
            base = statistics.median(alone)
            job = await long.send(path)
            await long.partials.get()
            waits = []
            for _ in range(20):
                await asyncio.sleep(random.uniform(0.2, 3.0))
                waits.append(await one.timed(clip))
            assert long.answers.empty(), "the long recording ended too soon; ask for more --minutes"
            began = time.perf_counter()
            await long.cancel(job)
            await long.answers.get()
            cancelled = time.perf_counter() - began
            after = await one.timed(clip)
        print(
            f"\na clip of 5 s alone: {shown(alone)} s; during {self._args.minutes:.0f} minutes: {shown(waits)} s,",
            end=" ",
        )
        print(f"{statistics.median(waits) / base:.1f} times at the median, {max(waits) / base:.1f} at most")
        print(f"cancelled after {cancelled:.2f} s; a clip sent then is answered after {after:.2f} s", flush=True)

    async def memory(self) -> None:
        for minutes in (10.0, self._args.minutes):
            path, _, _ = self._recording("length.flac", minutes * 60, 3)
            async with client(self.url) as one:
                seconds = await one.timed(path)
            print(f"\n{minutes:.0f} minutes: {peak_mb(self.url)} MB at most, {seconds:.0f} s", flush=True)

    # What they are made of.

    def _recording(self, name: str, seconds: float, seed: int) -> tuple[Path, str, float]:
        """The clips in turn, with pauses, until it is about so long: its path, its text and its seconds."""
        chance = np.random.default_rng(seed)
        parts: list[Audio] = []
        texts: list[str] = []
        length = 0
        shortest = min(self._clips, key=lambda clip: len(clip[0]))
        while not texts or length < (seconds - 2) * SAMPLE_RATE:
            sound, text = shortest if seconds < 10 else self._clips[len(texts) % len(self._clips)]
            pause = np.zeros(int(chance.uniform(*PAUSES) * SAMPLE_RATE), np.float32)
            parts += [sound, pause]
            texts.append(text)
            length += len(sound) + len(pause)
        path = write(self._folder / name, np.concatenate(parts), "flac", SAMPLE_RATE)
        with av.open(str(path)) as file:
            assert file.duration
        return path, " ".join(texts), length / SAMPLE_RATE

    async def _swarm(self, paths: list[Path], count: int) -> list[str]:
        """The texts, by so many clients who each send the next recording when the last is answered."""
        left = list(range(len(paths)))[::-1]
        heard = [""] * len(paths)

        async def drive() -> None:
            async with client(self.url) as one:
                while left:
                    index = left.pop()
                    await one.send(paths[index], word_timestamps=self._args.words)
                    answer = await one.answers.get()
                    heard[index] = answer["transcribe_audio"]["text"]

        await asyncio.gather(*(drive() for _ in range(min(count, len(paths)))))
        return heard

    def _loaded(self) -> Any:
        from faster_whisper import WhisperModel

        if self._model is None:
            self._model = WhisperModel(
                self._args.model, device="cpu", compute_type="int8", cpu_threads=self._args.threads
            )
        return self._model

    def _one(self, path: Path) -> str:
        return joined(self._loaded().transcribe(str(path), **self._options()))

    def _batched(self, path: Path) -> str:
        from faster_whisper import BatchedInferencePipeline

        return joined(BatchedInferencePipeline(self._loaded()).transcribe(str(path), **self._options()))

    def _options(self) -> dict[str, Any]:
        return {"language": "en", "beam_size": BEAM, "vad_filter": True, "word_timestamps": self._args.words}


class Client:
    """One connection; everything that it is told. kind: of the messages that it sends."""

    def __init__(self, kind: str = "whisp") -> None:
        self._kind = kind
        self.link = socketio.AsyncClient(json=Json, reconnection=False)
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.partials: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.link.on("message", self._answered)
        self.link.on("partial", self.partials.put)

    async def _answered(self, body: dict[str, Any]) -> None:
        if body["type"] == self._kind:
            assert body["status"] in ("success", "cancelled"), body
            await self.answers.put(body)

    async def send(self, path: Path, **options: Any) -> str:
        body = {"type": self._kind, "file": str(path), "language": "en", **options}
        accepted = await self.link.call("message", body)
        return str(accepted["job_id"])

    async def cancel(self, job: str) -> None:
        await self.link.emit("message", {"type": "cancel", "job_id": job})

    async def timed(self, path: Path) -> float:
        began = time.perf_counter()
        await self.send(path)
        await self.answers.get()
        return time.perf_counter() - began


@contextlib.asynccontextmanager
async def client(url: str, kind: str = "whisp") -> Any:
    one = Client(kind)
    await one.link.connect(url, transports=["websocket"])
    try:
        yield one
    finally:
        await one.link.disconnect()


def joined(transcribed: Any) -> str:
    return " ".join(segment.text.strip() for segment in transcribed[0])


def error_rate(files: list[tuple[Path, str, float]], heard: list[str]) -> float:
    """The word error rate over all recordings together."""
    pairs = [(words(text), words(said)) for (_, text, _), said in zip(files, heard, strict=True)]
    return sum(edit_distance(text, said) for text, said in pairs) / sum(len(text) for text, _ in pairs)


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def peak_mb(url: str) -> int:
    """The most that the worker's process has used so far."""
    with urllib.request.urlopen(f"{url}/health", timeout=20) as health:
        pid = json.load(health)["workers"]["whisper"]["processes"][0]["pid"]
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(peak[1]) // 1000 if peak else 0


if __name__ == "__main__":
    main()
