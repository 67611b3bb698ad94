"""Jobs that somebody else changes meanwhile: they go on from what the ledger has, and tell everything once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pipeline import replay
from storage.records import Expired
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

    def change() -> None:
        with closing(sqlite3.connect(road.folders.data / "ledger.sqlite3", isolation_level=None)) as ledger:
            ledger.execute("UPDATE jobs SET version = version + 1000 WHERE id=?", (job,))

    await asyncio.to_thread(change)


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
