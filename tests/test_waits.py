"""Jobs that wait for somebody: over restarts, for whoever may say so, outside their deadline and without a place."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from contract import clock
from contract.errors import FileNotFound, InvalidInput, JobNotFound, QueueFull
from contract.identity import Identity
from contract.messages import FileRef
from contract.params import Params
from pipeline.job import State
from pipeline.plans import Plan, Stage
from storage.retention import Retention
from tests.roads import ME, YOU, Road
from tests.toys.looker import Looker


class Asked(Params):
    image: FileRef


class Approval(BaseModel):
    approved: bool
    image: FileRef | None = None


FIRST = Plan(
    "approved",
    Asked,
    (
        Stage("look", "looker", {"image": "$request.image"}),
        Stage("approval", wait=Approval, params="$look"),
        Stage("again", "looker", {"image": "$request.image"}, when="$approval.approved"),
    ),
    {"looked": "$look", "again": "$again"},
)
SECOND = dataclasses.replace(FIRST, stages=FIRST.stages[:1], answer={"only": "$look"}, version=2, before=(FIRST,))
"""What the plan has become: nobody is asked any more. Jobs of the first version go on as they began."""
WITHOUT = dataclasses.replace(SECOND, before=())

PICTURE = b"a picture"
YES = {"approved": True}


async def started(folder: Path, plan: Plan = FIRST, **limits: Any) -> Road:
    return await Road(folder, [Looker], plan, **limits).start()


async def until_waiting(road: Road, job: str, who: Identity = ME) -> dict[str, Any]:
    """The job's entry in its client's listing, once it waits."""
    while True:
        entry: dict[str, Any]
        [entry] = [entry for entry in (await road.queue.jobs(who, 9))["jobs"] if entry["job_id"] == job]
        if entry["state"] == State.WAITING:
            return entry
        await asyncio.sleep(0)


async def asked(road: Road, who: Identity = ME) -> str:
    """A job that waits, and of which the server holds nothing."""
    job = await road.queue.submit({"type": "approved", "image": PICTURE}, who)
    while road.queue.open_jobs:
        await asyncio.sleep(0)
    return job


async def test_a_wait_survives_two_restarts_and_a_change_of_the_plan_and_ends_by_another_client(tmp_path: Path) -> None:
    road = await started(tmp_path)
    job = await asked(road)
    since = (await until_waiting(road, job))["waiting_for"]
    assert since["name"] == "approval"
    assert since["since"] == pytest.approx(time.time(), abs=60)
    for plan in (FIRST, SECOND):
        await road.close()
        road = await started(tmp_path, plan)
        assert (await until_waiting(road, job))["waiting_for"] == since
        assert road.queue.open_jobs == 0, "who waits is in the ledger alone"
    assert await road.queue.signal(job, "approval", YES, YOU)
    final = await road.final(job)
    assert (final["looked"], final["again"]) == ([len(PICTURE)], [len(PICTURE)])
    assert not await road.queue.signal(job, "approval", YES, YOU)
    later = await road.final(await road.queue.submit({"type": "approved", "image": PICTURE}, ME))
    assert later["only"] == [len(PICTURE)]
    await road.close()


async def test_a_job_whose_plan_is_gone_ends_with_a_sentence(tmp_path: Path) -> None:
    road = await started(tmp_path)
    job = await asked(road)
    await road.close()
    road = await started(tmp_path, WITHOUT)
    [entry] = (await road.queue.jobs(ME, 9))["jobs"]
    assert entry["state"] == State.FAILED
    body = await road.queue.final(job)
    assert body is not None
    assert b"no longer has the pipeline that this job began with; send it again" in body
    assert not await road.queue.signal(job, "approval", YES, ME)
    await road.close()


async def test_a_signal_is_for_the_owners_clients_and_for_what_is_waited_for(tmp_path: Path) -> None:
    road = await started(tmp_path)
    acme, other = (Identity.known(name, name) for name in ("acme", "other"))
    job = await asked(road, acme)
    for stranger, wrong in ((other, job), (ME, job), (acme, "job_0"), (acme, None)):
        with pytest.raises(JobNotFound):
            await road.queue.signal(wrong, "approval", YES, stranger)
    for name in ("look", "again", "nothing", "approval.0", ""):
        assert not await road.queue.signal(job, name, YES, acme)
    wrong_data: list[Any] = [{}, {"approved": [1]}, [], None]
    for data in wrong_data:
        with pytest.raises(InvalidInput):
            await road.queue.signal(job, "approval", data, acme)
    with pytest.raises(FileNotFound):
        await road.queue.signal(job, "approval", {**YES, "image": "gone.png"}, acme)
    assert (await until_waiting(road, job, acme))["waiting_for"]["name"] == "approval"
    colleague = Identity.known("colleague", "acme")
    assert await road.queue.signal(job, "approval", {**YES, "image": b"another"}, colleague)
    await road.final(job)
    assert len(list(road.folders.uploads.iterdir())) == 2
    await road.close()


async def test_of_signals_that_come_at_once_one_counts(tmp_path: Path) -> None:
    road = await started(tmp_path)
    job = await asked(road)
    said = await asyncio.gather(*(road.queue.signal(job, "approval", YES, ME) for _ in range(5)))
    assert sorted(said) == [False] * 4 + [True]
    await road.final(job)
    assert [out.kind for _, told, out in road.told if told == job].count("final") == 1
    await road.close()


async def test_waiting_takes_no_place_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    road = await started(tmp_path, open_jobs_per_client=1, deadline_seconds=1800.0)
    first, second = await asked(road), await asked(road)
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + 3600.0)
    for job in (first, second):
        assert (await until_waiting(road, job))["state"] == State.WAITING
        assert await road.queue.signal(job, "approval", YES, ME)
        assert (await road.final(job))["status"] == "success"
    await road.close()


async def test_a_job_that_goes_on_has_its_place_again(tmp_path: Path) -> None:
    road = await started(tmp_path, open_jobs_per_client=1)
    job = await asked(road)
    road.transport.hold(["looker"])
    assert await road.queue.signal(job, "approval", YES, ME)
    with pytest.raises(QueueFull):
        await road.queue.submit({"type": "approved", "image": PICTURE}, ME)
    road.transport.hold([])
    await road.final(job)
    await road.queue.submit({"type": "approved", "image": PICTURE}, ME)
    await road.close()


async def test_a_job_that_waits_can_be_cancelled_also_after_a_restart(tmp_path: Path) -> None:
    road = await started(tmp_path)
    first, second = await asked(road), await asked(road)
    assert await road.queue.cancel(first, ME)
    assert (await road.final(first))["status"] == "cancelled"
    await road.close()
    road = await started(tmp_path)
    assert await road.queue.cancel(second, ME)
    assert (await road.final(second))["status"] == "cancelled"
    assert not await road.queue.cancel(second, ME)
    await road.close()


async def test_what_a_waiting_job_needs_is_kept_for_as_long_as_it_waits(tmp_path: Path) -> None:
    road = await started(tmp_path)
    job = await asked(road)
    retention = Retention(road.ledger, road.folders, hours=0.0)
    await retention.sweep()
    assert await road.queue.signal(job, "approval", YES, ME)
    assert (await road.final(job))["again"] == [len(PICTURE)]
    await retention.sweep()
    assert not list(road.folders.uploads.iterdir())
    await road.close()


ASKED_FIRST = Plan("asked", Asked, (Stage("approval", wait=Approval, params={}),), {"approved": "$approval.approved"})


async def test_a_pipeline_may_begin_with_a_wait(tmp_path: Path) -> None:
    road = await started(tmp_path, ASKED_FIRST)
    job = await road.queue.submit({"type": "asked", "image": PICTURE}, ME)
    assert (await until_waiting(road, job))["waiting_for"]["name"] == "approval"
    while road.queue.open_jobs:
        await asyncio.sleep(0)
    assert await road.queue.signal(job, "approval", YES, ME)
    assert (await road.final(job))["approved"] is True
    await road.close()


TWICE = Plan(
    "twice",
    Asked,
    (
        Stage("first", wait=Approval, params={}),
        Stage("second", wait=Approval, params="$first"),
        Stage("look", "looker", {"image": "$first.image"}, when="$second.approved"),
    ),
    {"looked": "$look"},
)


async def test_a_file_that_came_with_a_signal_is_kept_while_another_is_waited_for(tmp_path: Path) -> None:
    road = await started(tmp_path, TWICE)
    job = await road.queue.submit({"type": "twice", "image": PICTURE}, ME)
    await until_waiting(road, job)
    assert await road.queue.signal(job, "first", {**YES, "image": b"another"}, ME)
    await until_waiting(road, job)
    await Retention(road.ledger, road.folders, hours=0.0).sweep()
    assert await road.queue.signal(job, "second", YES, ME)
    assert (await road.final(job))["looked"] == [len(b"another")]
    await road.close()


async def test_a_file_that_came_with_a_signal_that_nobody_awaits_does_not_stay(tmp_path: Path) -> None:
    road = await started(tmp_path)
    job = await asked(road)
    said = await asyncio.gather(*(road.queue.signal(job, "approval", {**YES, "image": PICTURE}, ME) for _ in range(3)))
    assert sorted(said) == [False, False, True]
    await road.final(job)
    kept = {path.name for path in road.folders.uploads.iterdir()}
    assert len(kept) == 2
    assert (await road.ledger.known()).files == kept
    await road.close()


async def test_what_a_job_has_waited_with_is_kept_until_it_ends(tmp_path: Path) -> None:
    road = await started(tmp_path)
    job = await asked(road)
    road.transport.hold(["looker"])
    assert await road.queue.signal(job, "approval", YES, ME)
    await Retention(road.ledger, road.folders, hours=0.0).sweep()
    road.transport.hold([])
    assert (await road.final(job))["again"] == [len(PICTURE)]
    await road.close()


class Words(Params):
    words: list[str]


EACH = Plan("each", Words, (Stage("ok", wait=Approval, over="$request.words"),), each={"ok": "$ok.approved"})


async def test_of_signals_that_come_at_once_none_is_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them reads the job too early."""
    road = await started(tmp_path, EACH)
    job = await road.queue.submit({"type": "each", "words": ["a", "b"]}, ME)
    while road.queue.open_jobs:
        await asyncio.sleep(0)
    load, loads = road.ledger.load, 0

    async def slow(job_id: str) -> Any:
        nonlocal loads
        loads += 1
        late = loads == 2
        stored = await load(job_id)
        while late and not (road.told and road.queue.open_jobs == 0):
            await asyncio.sleep(0)
        return stored

    monkeypatch.setattr(road.ledger, "load", slow)
    async with asyncio.timeout(30):
        said = await asyncio.gather(*(road.queue.signal(job, f"ok.{index}", YES, ME) for index in range(2)))
    assert said == [True, True]
    assert len((await road.final(job))["data"]) == 2
    assert [out.seq for _, _, out in road.told] == [1, 2, 3]
    await road.close()
