"""`flrnc` with Florence-2 base's sizes: captions of 20 tokens a second, against transformers' own `generate`.

Both sides get pictures of 640 x 360 and prepare them; the server also reads them from files.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.captions import DRAWINGS, drive
from bench.gpu.florence_model import TOKENS, Size, make_florence
from bench.gpu.parts import Setup
from bench.gpu.served import Library, Served, serving
from bench.gpu.table import Goal, print_rows
from bench.gpu.turns import Figures, take_turns

RATE = "captions/s"
_WARM_UP_SECONDS = 0.5

Timed = Callable[[float], Figures]
"""Measures for so many seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """clients: so many at once, and captions a second that are wanted of the server then. seconds: of each turn."""

    name: str
    size: Size
    clients: dict[int, float]
    seconds: float
    batch: int


def measure(setup: Setup, plan: Plan) -> None:
    model = make_florence(setup.folder / f"florence-{plan.name}", plan.size)
    for number, what in enumerate(DRAWINGS):
        what.image().save(setup.folder / f"{number}.png")
    batches = (1, plan.batch)
    with (
        Library(_load, str(model), setup.device) as library,
        serving(setup.folder, "florence", model, setup.device) as served,
    ):
        turns = [
            *(library.turn(_direct(size), *_twice(generating(library, size), plan.seconds)) for size in batches),
            *(served.turn(_served(count), *_twice(driven(served, count), plan.seconds)) for count in plan.clients),
        ]
        found = take_turns(turns, setup.until, setup.gpu)
    goals = [Goal(_served(count), RATE, wanted) for count, wanted in plan.clients.items()]
    print_rows(f"Florence-2 {plan.name}, {TOKENS} tokens", found, goals)


def _direct(size: int) -> str:
    return "generate, one at a time" if size == 1 else f"generate, {size} at once"


def _served(count: int) -> str:
    return f"server, {count} client{'s' * (count > 1)}"


def generating(library: Library, size: int) -> Timed:
    return lambda seconds: library.call(_generated, size, seconds)


def driven(served: Served, count: int) -> Timed:
    return lambda seconds: {RATE: asyncio.run(drive(served.url, count, seconds))}


def _twice(act: Timed, seconds: float) -> tuple[Callable[[], Figures], Callable[[], Figures]]:
    """Measuring, and a short warm-up."""
    return lambda: act(seconds), lambda: act(_WARM_UP_SECONDS)


# In the library's own process.

_model: Any = None
_processor: Any = None
_pictures: Sequence[Any] = ()


def _load(path: str, device: str) -> None:
    global _model, _processor, _pictures  # noqa: PLW0603 - a process pool has no other place for what was loaded
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)  # on a CPU that the server has too, threads that wait for each other starve it
    dtype = torch.float16 if device == "cuda" else torch.float32
    _processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    _model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, local_files_only=True).to(device).eval()
    _pictures = [what.image() for what in DRAWINGS]


def _generated(size: int, seconds: float) -> Figures:
    """So many pictures at once, for so many seconds."""
    import torch

    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        pictures = [_pictures[(done + number) % len(_pictures)] for number in range(size)]
        sentence = "What does the image describe?"
        inputs = _processor(images=pictures, text=[sentence] * size, padding=True, return_tensors="pt")
        with torch.inference_mode():
            written = _model.generate(**inputs.to(_model.device, _model.dtype))
        assert written.shape[1] == TOKENS + 1, written.shape  # the first is not written
        _processor.batch_decode(written, skip_special_tokens=False)
        done += size
    return {RATE: done / (time.perf_counter() - began)}
