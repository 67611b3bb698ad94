"""The ResultQueue over the real ledger and an in-process transport: plans, limits, keys, and what listeners hear."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from contract.errors import (
    DiskFull,
    FileNotFound,
    InvalidInput,
    JobNotFound,
    QueueFull,
    RateLimited,
    TooLarge,
    UnknownType,
)
from contract.identity import Identity
from contract.messages import FileRef
from pipeline.plans import Plan, Retry, Stage
from storage.ledger import Conflict
from storage.records import Expired
from storage.retention import Retention
from tests.roads import ME, YOU, Road
from tests.toys.listener import Listener
from tests.toys.looker import Looker
from tests.toys.toy import Toy, ToyParams
from tests.toys.waiter import Waiter
from workers.base import AsyncWorker, Context, Params

TWICE = Plan(
    "twice",
    ToyParams,
    (Stage("once", "toy", {"words": "$request.words"}), Stage("again", "toy", {"words": "$once.words"})),
    {"twice": "$again.words"},
)


class ReaderParams(Params):
    file: FileRef
    beside: FileRef | None = None


class Reader(AsyncWorker):
    """Says what stands in a file."""

    name = "reader"
    message_type = "reader"
    answer = "$reader"
    Params = ReaderParams
    example = {"file": "README.md"}

    async def run_async(self, params: ReaderParams, ctx: Context) -> dict[str, str]:
        return {"text": ctx.local(params.file).read_text()}


def new_road(folder: Path, **limits: Any) -> Road:
    return Road(folder, (Toy, Reader, Looker, Waiter, Listener), TWICE, **limits)


@pytest_asyncio.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    road = await new_road(tmp_path, open_jobs=6, open_jobs_per_client=4).start()
    yield road
    await road.close()


async def test_a_new_pipeline_is_one_row(road: Road) -> None:
    job = await road.queue.submit({"type": "twice", "words": ["a"]}, ME)
    assert (await road.final(job))["twice"] == ["A"]


async def test_the_ledger_has_what_was_told_word_for_word(road: Road) -> None:
    job = await road.queue.submit({"type": "toy", "words": ["a", "b"]}, ME)
    final = await road.final(job)
    assert [event.seq for event in await road.queue.told(job, 0)] == [1, 2, 3]
    [last] = await road.queue.told(job, 2)
    assert last.kind == "final"
    assert final["seq"] == 3


async def test_too_many_open_jobs_are_refused_at_once(road: Road, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it, so nobody ends

    async def submit(who: Identity) -> str | None:
        try:
            return await road.queue.submit({"type": "waiter", "fifo": str(tmp_path / "pipe")}, who)
        except QueueFull as full:
            assert full.details["retry_after"] > 0
            return None

    mine = await asyncio.gather(*(submit(ME) for _ in range(6)))
    yours = await asyncio.gather(*(submit(YOU) for _ in range(4)))
    assert [job is None for job in mine] == [False] * 4 + [True] * 2
    assert [job is None for job in yours] == [False] * 2 + [True] * 2
    for job, who in (*((job, ME) for job in mine if job), *((job, YOU) for job in yours if job)):
        await road.queue.cancel(job, who)
        await road.final(job)
    await road.final(await road.queue.submit({"type": "toy", "words": ["w"]}, ME))


async def test_a_key_makes_one_job_however_often_it_is_sent(road: Road) -> None:
    message = {"type": "toy", "words": ["a"], "idempotency_key": "k"}
    jobs = await asyncio.gather(*(road.queue.submit(message, ME) for _ in range(5)))
    await road.final(jobs[0])
    jobs.append(await road.queue.submit(message, ME))
    assert len(set(jobs)) == 1
    assert await road.queue.submit(message, YOU) != jobs[0]


async def test_content_of_a_refused_message_does_not_stay(road: Road) -> None:
    with pytest.raises(FileNotFound):
        await road.queue.submit({"type": "reader", "file": b"sound", "beside": "nothing.txt"}, ME)
    assert not road.folders.uploads.exists()


async def test_what_a_refused_message_brought_does_not_stay(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever refuses it, and however late: its options, its key, a full disk."""
    good = {"type": "reader", "file": b"sound"}
    keyed = {**good, "idempotency_key": "k"}
    first = await road.queue.submit(keyed, ME)
    await road.final(first)

    async def never_known(*_: Any) -> None:
        return None

    async def full(*_: Any) -> None:
        raise DiskFull("The disk is full.")

    with monkeypatch.context() as patched, pytest.raises((Conflict, AssertionError)):
        patched.setattr(road.ledger, "job_by_key", never_known)
        await road.queue.submit(keyed, ME)
    with pytest.raises(TooLarge, match="256 KiB"):
        await road.queue.submit({**good, "beside": "x" * 300_000}, ME)
    with monkeypatch.context() as patched, pytest.raises(DiskFull):
        patched.setattr(road.ledger, "accept", full)
        await road.queue.submit(good, ME)
    kept = {path.name for path in road.folders.uploads.iterdir()}
    assert len(kept) == 1
    assert (await road.ledger.known()).files == kept


async def test_a_listing_comes_in_pages(road: Road) -> None:
    jobs = [await road.queue.submit({"type": "toy", "words": ["w"]}, ME) for _ in range(3)]
    first = await road.queue.jobs(ME, 2)
    assert [row["job_id"] for row in first["jobs"]] == jobs[:0:-1]
    rest = await road.queue.jobs(ME, 2, first["next"])
    assert [row["job_id"] for row in rest["jobs"]] == jobs[:1]
    assert "next" not in rest
    assert (await road.queue.jobs(YOU, 2, first["next"]))["jobs"] == []
    for wrong in ("", jobs[0], "when job", 7):
        with pytest.raises(InvalidInput):
            await road.queue.jobs(ME, 2, wrong)  # type: ignore[arg-type]
    await asyncio.gather(*map(road.final, jobs))


async def test_a_listing_goes_on_behind_a_job_that_is_forgotten_meanwhile(road: Road) -> None:
    jobs = [await road.queue.submit({"type": "toy", "words": ["w"]}, ME) for _ in range(3)]
    await asyncio.gather(*map(road.final, jobs))
    first = await road.queue.jobs(ME, 2)
    await road.ledger.forget(Expired(tuple(jobs[1:]), (), ()))
    assert [row["job_id"] for row in (await road.queue.jobs(ME, 2, first["next"]))["jobs"]] == jobs[:1]


async def test_a_file_may_have_any_name_and_come_as_path_upload_or_content(road: Road, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12345")
    first = await road.final(await road.queue.submit({"type": "looker", "image": b"123"}, ME))
    [kept] = road.folders.uploads.iterdir()
    second = await road.final(await road.queue.submit({"type": "looker", "image": kept.name}, ME))
    third = await road.final(await road.queue.submit({"type": "looker", "image": str(tmp_path / "a.png")}, ME))
    assert [answer["sizes"] for answer in (first, second, third)] == [[3], [3], [5]]
    assert (await road.ledger.known()).files == {kept.name}
    with pytest.raises(FileNotFound):
        await road.queue.submit({"type": "looker", "image": kept.name}, Identity.known("me", "another owner"))


async def test_a_refused_key_may_be_tried_again(road: Road) -> None:
    with pytest.raises(InvalidInput):
        await road.queue.submit({"type": "toy", "words": 5, "idempotency_key": "k"}, ME)
    job = await road.queue.submit({"type": "toy", "words": ["a"], "idempotency_key": "k"}, ME)
    assert (await road.final(job))["status"] == "success"


async def test_nobody_sees_or_stops_anothers_job(road: Road, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    job = await road.queue.submit({"type": "waiter", "fifo": str(tmp_path / "pipe")}, ME)
    await road.some_news()
    with pytest.raises(JobNotFound):
        await road.queue.cancel(job, YOU)
    assert (await road.queue.jobs(YOU, 9))["jobs"] == []
    assert await road.queue.cancel(job, ME)
    assert (await road.final(job))["status"] == "cancelled"
    assert not await road.queue.cancel(job, ME)


async def test_what_a_worker_made_is_its_owners_to_read(road: Road) -> None:
    job = await road.queue.submit({"type": "toy", "words": ["a"], "keep": "a.txt"}, ME)
    await road.final(job)
    path = road.folders.speech / "a.txt"
    stranger = road.folders.speech / "b.txt"
    stranger.write_text("somebody else's")
    message = {"type": "reader", "file": str(path)}
    assert (await road.final(await road.queue.submit(message, ME)))["text"] == "A"
    for who, file in ((Identity.known("me", "another owner"), path), (ME, stranger)):
        with pytest.raises(FileNotFound):
            await road.queue.submit({"type": "reader", "file": str(file)}, who)


async def test_what_is_made_again_by_a_later_attempt_stays_its_owners(road: Road) -> None:
    path = road.folders.speech / "a.txt"
    for who, word in ((ME, "a"), (ME, "b"), (YOU, "c")):
        done = await road.final(await road.queue.submit({"type": "toy", "words": [word], "keep": "a.txt"}, who))
        assert done["status"] == "success"
    assert (await road.final(await road.queue.submit({"type": "reader", "file": str(path)}, ME)))["text"] == "C"


async def test_what_a_worker_made_goes_with_the_retention(road: Road) -> None:
    await road.final(await road.queue.submit({"type": "toy", "words": ["a"], "keep": "a.txt"}, ME))
    kept = road.folders.speech / "mine.txt"
    kept.write_text("not the server's to delete")
    await Retention(road.ledger, road.folders, hours=0).sweep()
    assert [path.name for path in road.folders.speech.iterdir()] == ["mine.txt"]


async def test_a_batch_is_limited_and_unknown_types_are_named(road: Road) -> None:
    with pytest.raises(Exception, match="3 items"):
        await road.queue.submit({"type": "toy", "data": [{"words": []}] * 4}, ME)
    with pytest.raises(UnknownType, match="looker, reader, toy, toy_listener, twice, waiter"):
        await road.queue.submit({"type": "song"}, ME)


async def test_a_late_job_fails_by_its_deadline(tmp_path: Path) -> None:
    road = await new_road(tmp_path, deadline_seconds=0.0).start()
    job = await road.queue.submit({"type": "toy", "words": ["w"] * 5000}, ME)
    assert (await road.final(job))["error_code"] == "DEADLINE_EXCEEDED"
    await road.close()


async def test_an_unfinished_job_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = await new_road(tmp_path).start()
    job = await first.queue.submit({"type": "toy", "words": [f"w{n}" for n in range(200)]}, ME)
    await first.some_news()
    await first.close()
    second = await new_road(tmp_path).start()
    final = await second.final(job)
    assert final["toy"]["words"] == [f"W{n}" for n in range(200)]
    assert final["toy"]["resumed"] > 0
    seqs = [event.seq for event in await second.queue.told(job, 0)]
    assert seqs == list(range(1, len(seqs) + 1))
    await second.close()


async def test_a_job_whose_pipeline_is_gone_is_answered(tmp_path: Path) -> None:
    first = await new_road(tmp_path).start()
    job = await first.queue.submit({"type": "twice", "words": ["w"] * 500}, ME)
    await first.close()
    second = new_road(tmp_path)
    del second.plans["twice"]
    await second.start()
    [last] = (await second.queue.told(job, 0))[-1:]
    assert last.kind == "final"
    assert '"INTERNAL"' in str(last.body)
    await second.close()


class BusyParams(Params):
    seen: str


class Busy(AsyncWorker):
    """Asks for patience the first time."""

    name = "busy"
    message_type = "busy"
    answer = "$busy"
    Params = BusyParams
    example = {"seen": "/dev/null"}

    async def run_async(self, params: BusyParams, ctx: Context) -> Any:
        if not Path(params.seen).exists():
            Path(params.seen).touch()
            raise RateLimited("Come again.", retry=True)
        return "welcome"


PATIENT = Plan(
    "patient",
    BusyParams,
    (Stage("busy", "busy", "$request", retry=Retry(frozenset({"RATE_LIMITED"}))),),
    {"got": "$busy"},
)


async def test_what_is_to_be_tried_again_later_keeps_no_server_and_is_tried_by_the_next(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    road = await Road(tmp_path, [Busy], PATIENT).start()
    job = await road.queue.submit({"type": "patient", "seen": str(tmp_path / "seen")}, ME)
    async with asyncio.timeout(30):
        while (stored := await road.ledger.load(job)) is None or stored.runs[0].attempt == 1:
            pass
    await road.ledger.settled()
    await road.close()
    assert asyncio.all_tasks() - before == set()
    road = await Road(tmp_path, [Busy], PATIENT).start()
    assert (await road.final(job))["got"] == "welcome"
    await road.close()
