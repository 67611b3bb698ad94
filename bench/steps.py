"""What an ended task costs the event loop: the next step of its job worked out, written and told.

    .venv/bin/python -m bench.steps [--rounds 5] [--items 10 100 1000 10000]

Two plans: `video`, three stages for each item, of which two run; and `five`, which hears one file, and translates,
speaks and fits each of its segments before it gathers them all. Each job is played from its first task to its answer
with a ledger on the disk and a transport that does nothing, so what is counted is the time of the event loop's thread
alone. `begun`: the same for the first step, which makes a task of each item. The floor is one event that a job of one
stage ends with.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from contract.messages import Event, Task
from pipeline.admission import Limits
from pipeline.catalog import load_plans
from pipeline.intake import Intake
from pipeline.plans import Plan, Stage
from pipeline.result_queue import ResultQueue
from pipeline.transport.base import Transport
from storage.sqlite import SqliteLedger
from tests.drive import folders
from tests.roads import ME
from workers.runtime.discovery import discover


class Items(BaseModel):
    items: int


FIVE = Plan(
    "five",
    Items,
    (
        Stage("hear", "whisper", {"items": "$request.items"}),
        Stage("translate", "translate", {"text": "$item.text"}, over="$hear.segments", on_error="keep"),
        Stage("speak", "fish", {"text": "$translate.text"}, on_error="keep"),
        Stage("fit", "mix", {"file": "$speak.file", "start": "$item.start"}, over="$hear.segments", on_error="keep"),
        Stage("join", "mix", {"pieces": "$fit*.file"}),
    ),
    {"file": "$join.file"},
)
ONE = Plan("one", Items, (Stage("only", "whisper", "$request"),), {"text": "$only.text"})


class Idle(Transport):
    """Keeps the tasks it is given, for whoever says what became of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []
        self.some = asyncio.Event()

    async def start(self) -> None: ...
    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        self.some.set()

    def cancel(self, job: str) -> None: ...
    def more(self, job: str, ended: bool = False) -> None: ...
    def hold(self, workers: Collection[str]) -> None: ...
    async def drain(self, seconds: float) -> None: ...
    async def close(self) -> None: ...
    def status(self) -> dict[str, dict[str, Any]]:
        return {}

    def end(self, task: Task) -> None:
        self._happened(Event.of(task, "done", result_of(task)))


def result_of(task: Task) -> dict[str, Any]:
    if task.stage == "hear":
        return {"segments": [{"start": float(index), "text": "words"} for index in range(task.params["items"])]}
    return {
        "text": "words",
        "chunks": [],
        "language": "en",
        "duration": 1.0,
        "file": "piece.wav",
        "transcribe_video": [],
    }


class Cost(NamedTuple):
    """Milliseconds of the event loop's thread."""

    begun: float
    done: float


async def played(message: dict[str, Any], folder: Path, items: int) -> Cost:
    """A job's cost from its message to its answer; `done` is for each task that ended."""
    transport, ended = Idle(), asyncio.Event()
    where = folders(folder / "data", folder)
    where.data.mkdir()
    ledger = SqliteLedger(where.ledger)
    plans = {**load_plans(discover(), items), FIVE.name: FIVE, ONE.name: ONE}
    road = ResultQueue(ledger, transport, plans, Intake(plans, where, ledger), Limits())
    road.listeners.of_client(
        ME.client, lambda job, outs: ended.set() if any(out.kind == "final" for out in outs) else None
    )
    await road.start()
    start = time.thread_time()
    await road.submit(message, ME)
    await transport.some.wait()
    begun, start, count = time.thread_time() - start, time.thread_time(), 0
    over = asyncio.ensure_future(ended.wait())
    while not over.done():
        transport.some.clear()
        while transport.tasks:
            transport.end(transport.tasks.pop())
            count += 1
            await asyncio.sleep(0)  # the road takes one at a time
        more = asyncio.ensure_future(transport.some.wait())
        await asyncio.wait([over, more], return_when=asyncio.FIRST_COMPLETED)
        more.cancel()
    done = (time.thread_time() - start) / count
    await road.close()
    await ledger.close()
    return Cost(begun * 1000, done * 1000)


def measured(message: Callable[[int], dict[str, Any]], items: int) -> Cost:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(items):
            (folder / f"{index}.mp4").write_bytes(b"x")
        return asyncio.run(played(message(items), folder, items))


PLANS: dict[str, Callable[[int], dict[str, Any]]] = {
    "video": lambda items: {"type": "video", "files": [f"{index}.mp4" for index in range(items)]},
    "five": lambda items: {"type": "five", "items": items},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    args = parser.parse_args()
    rows = [("one", 1), *((plan, items) for items in args.items for plan in PLANS)]
    figures: dict[tuple[str, int], list[Cost]] = {row: [] for row in rows}
    for _ in range(args.rounds):
        for plan, items in rows:
            figures[plan, items].append(measured(PLANS.get(plan, lambda items: {"type": "one", "items": items}), items))
    print("| plan | items | ms of event loop per `done` | ms for the first step |")
    print("|---|---|---|---|")
    for (plan, items), costs in figures.items():
        print(
            f"| {plan} | {items} | {spread([cost.done for cost in costs])} | {spread([cost.begun for cost in costs])} |"
        )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
