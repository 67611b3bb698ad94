"""Jobs that somebody else changes meanwhile: they go on from what the ledger has, and tell everything once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from contract.messages import Event, Request
from pipeline import replay
from pipeline.backlog import Backlog
from pipeline.job import Job, Step, advance, begin, opened
from pipeline.plans import Plan, Stage
from pipeline.replay import Cause, Changes, Effects
from pipeline.stored import changed
from storage.ledger import Done
from storage.records import Change, Expired
from storage.sqlite import SqliteLedger
from tests.roads import ME, Road
from tests.toys.toy import Toy
from workers.base import AsyncWorker, Context, Params
from workers.runtime.async_engine import in_thread

PATIENCE = 30.0
WORDS = [f"w{number}" for number in range(200)]


class PacedParams(Params):
    fifo: str


class Paced(AsyncWorker):
    """Says each byte that comes through a pipe, until an `e`."""

    name = "paced"
    message_type = "paced"
    answer = "$paced"
    Params = PacedParams
    example = {"fifo": "/dev/null"}

    async def run_async(self, params: PacedParams, ctx: Context) -> Any:
        pipe = os.open(params.fifo, os.O_RDWR)
        index = 0
        while (byte := await in_thread(lambda: os.read(pipe, 1), lambda: os.write(pipe, b"e"))) != b"e":
            ctx.partial(index, byte.decode())
            index += 1
        os.close(pipe)
        return {"said": index}


class NoParams(Params):
    """It asks for nothing."""


class Unkeepable(AsyncWorker):
    """Says something that no ledger can keep: SQLite's numbers end before the index."""

    name = "unkeepable"
    message_type = "unkeepable"
    answer = "$unkeepable"
    Params = NoParams

    async def run_async(self, params: NoParams, ctx: Context) -> Any:
        ctx.partial(2**63, "x")
        return {}


@pytest_asyncio.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    road = await Road(tmp_path, [Toy, Paced, Unkeepable]).start()
    yield road
    await road.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[int]:
    """Of the worker that is paced."""
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)  # which waits for no reader, and keeps what is written
    yield pipe
    os.close(pipe)


async def begun(road: Road, pipe: int) -> str:
    """A job that has told something, and says more as the pipe is written to."""
    job = await road.queue.submit({"type": "paced", "fifo": str(road.folders.roots[0] / "pipe")}, ME)
    await says(road, job, pipe, 1)
    return job


async def says(road: Road, job: str, pipe: int, seq: int) -> None:
    """Let the worker say one more thing, and wait until that is told."""
    os.write(pipe, b".")
    while seq not in told(road, job):
        await road.some_news()


async def meddle(road: Road, job: str) -> None:
    """Change a job from outside, whatever is under way."""
    await asyncio.to_thread(raise_version, road.folders.data / "ledger.sqlite3", job)


def raise_version(path: Path, job: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute("UPDATE jobs SET version = version + 1000 WHERE id=?", (job,))


def told(road: Road, job: str) -> list[int]:
    return [out.seq for _, other, out in road.told if other == job and out.seq is not None]


async def kept(road: Road, job: str) -> list[tuple[int, str]]:
    """(seq, kind) of all that the ledger has of what was told."""
    found: list[tuple[int, str]] = []
    while page := await road.ledger.told(job, len(found)):
        found += [(event.seq, event.kind) for event in page]
    return found


async def is_whole(road: Road, job: str) -> None:
    """What was told has no gap, nothing twice and one end, in the ledger as with who listens here."""
    events = await kept(road, job)
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
    assert [kind for _, kind in events].count("final") == 1
    assert told(road, job) == [seq for seq, _ in events]


async def test_a_job_whose_version_changes_goes_on_and_has_one_end(road: Road, pipe: int) -> None:
    job = await begun(road, pipe)
    for seq in range(2, 10):
        await meddle(road, job)
        await says(road, job, pipe, seq)
    await meddle(road, job)
    os.write(pipe, b"e")
    assert (await road.final(job))["said"] == 9
    await is_whole(road, job)
    assert road.queue.open_jobs == 0


async def test_writes_that_conflict_together_are_made_up_for_in_order(road: Road, pipe: int) -> None:
    job = await begun(road, pipe)
    await meddle(road, job)
    os.write(pipe, b"." * 50 + b"e")
    assert (await road.final(job))["said"] == 51
    await is_whole(road, job)


async def test_a_job_that_changes_all_the_time_gets_to_its_end(road: Road) -> None:
    job = await road.queue.submit({"type": "toy", "words": WORDS}, ME)
    while road.queue.open_jobs:
        await meddle(road, job)
    assert (await road.final(job))["toy"]["words"] == [word.upper() for word in WORDS]
    await is_whole(road, job)


async def test_a_job_is_cancelled_also_where_its_version_has_changed(road: Road, pipe: int) -> None:
    job = await begun(road, pipe)
    await meddle(road, job)
    assert await road.queue.cancel(job, ME)
    assert (await road.final(job))["status"] == "cancelled"
    await is_whole(road, job)


async def test_a_job_that_is_forgotten_meanwhile_leaves(road: Road, pipe: int) -> None:
    job = await begun(road, pipe)
    await road.ledger.forget(Expired((job,), (), ()))
    os.write(pipe, b"e")
    async with asyncio.timeout(PATIENCE):
        while road.queue.open_jobs:
            await asyncio.sleep(0)
    assert (await road.final(await road.queue.submit({"type": "toy", "words": ["a"]}, ME)))["status"] == "success"


async def test_a_job_of_which_something_cannot_be_kept_fails(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RETRY_SECONDS", 0.01)
    job = await road.queue.submit({"type": "unkeepable"}, ME)
    assert (await road.final(job))["error_code"] == "INTERNAL"
    await is_whole(road, job)


# Two servers over one ledger.


async def test_a_job_that_ends_on_another_server_is_told_on_both_and_leaves(road: Road, tmp_path: Path) -> None:
    road.transport.hold(["toy"])
    job = await road.queue.submit({"type": "toy", "words": ["a", "b"]}, ME)
    other = await Road(tmp_path, [Toy, Paced, Unkeepable]).start()
    theirs = await other.final(job)
    assert theirs["toy"]["words"] == ["A", "B"]
    road.transport.hold([])
    assert await road.final(job) == theirs
    async with asyncio.timeout(PATIENCE):
        while road.queue.open_jobs:  # the answer is in the ledger before this server has heard of it
            await asyncio.sleep(0)
    await is_whole(road, job)
    await other.close()


async def test_two_servers_at_one_job_lose_nothing_of_it(road: Road, tmp_path: Path) -> None:
    job = await road.queue.submit({"type": "toy", "words": WORDS}, ME)
    await road.some_news()
    other = await Road(tmp_path, [Toy, Paced, Unkeepable]).start()
    ends = [asyncio.ensure_future(each.final(job)) for each in (road, other)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    stored = await road.ledger.load(job)
    assert stored is not None
    assert stored.job.state == "completed"
    [run] = stored.runs
    assert run.result["words"] == [word.upper() for word in WORDS]
    events = await kept(road, job)
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
    assert [kind for _, kind in events].count("final") == 1
    for each in (road, other):
        assert told(each, job) == sorted(set(told(each, job)))
    await other.close()


# One job without its road.

BLOB: dict[str, Any] = {"$blob": "a" * 32 + ".json", "bytes": 100_000}
SPOKEN = Plan(
    "spoken",
    NoParams,
    (Stage("hear", "whisper", {}), Stage("say", "fish", {"text": "$item"}, over="$hear.segments")),
    {"said": "$say*"},
)


class SlowLedger(SqliteLedger):
    """Its answers are given by hand while there are `answers` to keep them."""

    answers: deque[Callable[[], None]] | None = None

    def advance(self, change: Change, version: int, done: Done, *, soon: bool = True) -> None:
        def answered(error: Exception | None) -> None:
            if self.answers is None:
                done(error)
            else:
                self.answers.append(partial(done, error))

        super().advance(change, version, answered, soon=soon)


class Alone:
    """One job whose causes are played by hand."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite3"
        self.ledger = SlowLedger(self.path)
        self.open: dict[str, Job] = {}
        self.acted: list[Step] = []
        self.news = asyncio.Event()
        effects = Effects(self._act, lambda _: None, lambda *_: None, lambda _: None, self._read)
        self.changes = Changes(self.ledger, self.open, {"job": 0}, Backlog(lambda _: None), effects)

    async def start(self) -> Step:
        step = begin(Job("job", Request(1, "c", "local", "spoken", {}), SPOKEN, 0.0, 9.0))
        await self.ledger.accept(changed(step, 0.0))
        self.open["job"] = step.job
        return step

    def _act(self, step: Step) -> None:
        self.acted.append(step)
        self.news.set()

    async def _read(self, blob: str) -> Any:
        return ["one", "two"]

    def play(self, *causes: Cause) -> None:
        self.changes.play("job", causes)

    async def next_step(self) -> Step:
        async with asyncio.timeout(PATIENCE):
            await self.news.wait()
        self.news.clear()
        return self.acted[-1]

    async def close(self) -> None:
        await self.changes.close()
        await self.ledger.close()


@pytest_asyncio.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Alone]:
    alone = Alone(tmp_path)
    yield alone
    await alone.close()


async def test_what_a_large_list_sets_free_is_handed_out_although_the_job_changed_meanwhile(alone: Alone) -> None:
    [task] = (await alone.start()).tasks
    alone.play(partial(advance, event=Event.of(task, "done", {"segments": BLOB})))
    assert (await alone.next_step()).reads == (BLOB["$blob"],)
    await asyncio.to_thread(raise_version, alone.path, "job")
    alone.play(partial(opened, blob=BLOB["$blob"], value=["one", "two"]))
    assert [task.params for task in (await alone.next_step()).tasks] == [{"text": "one"}, {"text": "two"}]
    stored = await alone.ledger.load("job")
    assert stored is not None
    assert len(stored.runs) == 3


async def test_what_comes_between_two_conflicts_is_played_after_both(alone: Alone) -> None:
    [task] = (await alone.start()).tasks
    await asyncio.to_thread(raise_version, alone.path, "job")
    answers = alone.ledger.answers = deque[Callable[[], None]]()
    for index in range(2):
        alone.play(partial(advance, event=Event.of(task, "partial", index, index)))
    await alone.ledger.settled()
    answers.popleft()()
    alone.ledger.answers = None
    alone.play(partial(advance, event=Event.of(task, "done", {"segments": []})))
    answers.popleft()()
    step = await alone.next_step()
    assert [(out.kind, out.index) for out in step.outs] == [("partial", 0), ("partial", 1), ("final", None)]


async def test_who_waits_until_a_change_is_written_waits_also_where_the_job_is_loaded_first(alone: Alone) -> None:
    [task] = (await alone.start()).tasks
    await asyncio.to_thread(raise_version, alone.path, "job")
    answers = alone.ledger.answers = deque[Callable[[], None]]()
    alone.play(partial(advance, event=Event.of(task, "partial", 0, 0)))
    await alone.ledger.settled()
    alone.ledger.answers = None
    answers.popleft()()
    alone.play(partial(advance, event=Event.of(task, "done", {"segments": []})))
    async with asyncio.timeout(PATIENCE):
        await alone.changes.settled("job")
    assert alone.acted[-1].job.state.ended
