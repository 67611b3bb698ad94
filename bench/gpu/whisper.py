"""`whisp` with Whisper in published sizes: recordings of many clients, and a long one, against faster-whisper.

Both sides write the text that the model prescribes, with the same beam, timestamps and the times of words; a text that
is not the prescribed one is an error. A piece counts as one pass of the encoder and about a hundred tokens.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

from bench.gpu.parts import Setup
from bench.gpu.recordings import Recording, make_recordings
from bench.gpu.served import Library, Served, serving
from bench.gpu.table import Goal, print_rows
from bench.gpu.turns import Figures, take_turns
from bench.gpu.whisper_model import TEXT, Size, make_whisper
from bench.whisper import client

BATCH = 16
"""Of the library; the server chooses its own by the memory there is."""
BEAM = 5
SETTINGS = {"WHISPER_BEAM_SIZE": str(BEAM)}
DIRECT = f"BatchedInferencePipeline({BATCH})"
RATE, PIECES = "x real time", "pieces"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """goal: x real time of many clients, 0 for none; times: of the direct one, for many clients. long: minutes of one
    long recording, 0 for none."""

    size: Size
    count: int
    seconds: float
    times: float
    goal: float = 0.0
    long: float = 0.0


def measure(setup: Setup, plan: Plan) -> None:
    files = make_recordings(setup.folder / "recordings", setup.speech, plan.count, plan.seconds)
    long = make_recordings(setup.folder / "long", setup.speech, 1, 60 * plan.long) if plan.long else []
    model = make_whisper(setup.folder / f"whisper-{plan.size.name}", plan.size)
    many, one = f"server, {plan.count} clients", "server, 1 client"
    whole, direct_whole = f"server, one of {plan.long:g} min", f"{DIRECT}, one of {plan.long:g} min"
    with (
        Library(_load, str(model), setup.device) as library,
        serving(setup.folder, "whisper", model, setup.device, **SETTINGS) as served,
    ):
        turns = [
            library.turn(DIRECT, lambda: direct(library, files), lambda: direct(library, files[:1])),
            served.turn(one, lambda: swarm(served, files, 1), lambda: swarm(served, files[:1], 1)),
            served.turn(many, lambda: swarm(served, files, plan.count)),
        ]
        if long:
            turns.append(library.turn(direct_whole, lambda: direct(library, long)))
            turns.append(served.turn(whole, lambda: swarm(served, long, 1)))
        found = take_turns(turns, setup.until, setup.gpu)
    goals = [Goal(one, RATE, 1, DIRECT), Goal(many, RATE, plan.times, DIRECT), Goal(whole, RATE, 1, direct_whole)]
    goals += [Goal(many, RATE, plan.goal)] if plan.goal else []
    name = f"Whisper {plan.size.name}, {plan.count} recordings of {plan.seconds:g} s"
    print_rows(name, found, goals)


def direct(library: Library, files: list[Recording]) -> Figures:
    began = time.perf_counter()
    texts = library.call(_transcribe, [str(file.path) for file in files])
    return _figures(files, texts, time.perf_counter() - began)


def swarm(served: Served, files: list[Recording], count: int) -> Figures:
    """By so many clients, of whom each sends the next recording when the last is answered."""
    began = time.perf_counter()
    texts = asyncio.run(_heard(served.url, files, count))
    return _figures(files, texts, time.perf_counter() - began)


def _figures(files: list[Recording], texts: list[str], seconds: float) -> Figures:
    pieces = 0
    for text in texts:
        said = " ".join(text.split())
        times = said.count(TEXT)
        assert times and said == " ".join([TEXT] * times), f"not the prescribed text: {said[:400]}"
        pieces += times
    return {RATE: sum(file.seconds for file in files) / seconds, PIECES: pieces}


async def _heard(url: str, files: list[Recording], count: int) -> list[str]:
    left = list(range(len(files)))[::-1]
    texts = [""] * len(files)

    async def drive() -> None:
        async with client(url) as one:
            while left:
                index = left.pop()
                await one.send(files[index].path, word_timestamps=True)
                texts[index] = (await one.answers.get())["transcribe_audio"]["text"]

    await asyncio.gather(*(drive() for _ in range(count)))
    return texts


# In the library's own process.

_pipeline: Any = None


def _load(model: str, device: str) -> None:
    global _pipeline  # noqa: PLW0603 - a process pool has no other place for what was loaded
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    from workers.whisper.cuda import load_libraries

    if device == "cuda":
        load_libraries()
    kind = "float16" if device == "cuda" else "int8"
    _pipeline = BatchedInferencePipeline(
        WhisperModel(str(Path(model)), device=device, compute_type=kind, cpu_threads=2, local_files_only=True)
    )


def _transcribe(paths: list[str]) -> list[str]:
    options = {"language": "en", "beam_size": BEAM, "batch_size": BATCH, "word_timestamps": True}
    return [
        " ".join(segment.text.strip() for segment in _pipeline.transcribe(path, without_timestamps=False, **options)[0])
        for path in paths
    ]
