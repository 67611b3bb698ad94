"""A job followed to its end and its answer waited for, over the real road; who hears what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline import following
from pipeline.following import News
from pipeline.job import Out
from pipeline.listeners import Listeners
from storage.records import JobRecord
from storage.retention import Retention
from tests.roads import ME, PATIENCE, YOU, Road
from tests.toys.contract_toy import Echo
from tests.toys.toy import Toy

LONG = {"type": "contract_echo", "partials": 100, "partial_bytes": 5_000}


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    road = await Road(tmp_path, [Toy, Echo]).start()
    yield road
    await road.close()


async def accepted(road: Road, message: dict[str, Any]) -> JobRecord:
    return await road.queue.job(await road.queue.submit(message, ME), ME)


async def heard(road: Road, row: JobRecord, after: int = 0) -> list[News]:
    async with asyncio.timeout(PATIENCE):
        return [news async for news in road.following.follow(row, after) if news is not None and news.seq is not None]


# Listeners.


def test_a_listener_hears_its_client_or_its_job_and_nothing_when_it_has_stopped() -> None:
    listeners, told = Listeners(), []
    outs = (Out("final", 1, {}),)
    stops = [
        listeners.of_client(name, lambda job_id, outs, name=name: told.append((name, job_id)))  # type: ignore[misc]
        for name in ("ann", "ann", "bob")
    ]
    stops.append(listeners.of_job("first", lambda job_id, outs: told.append(("first", job_id))))
    listeners.tell("ann", "first", outs)
    assert told == [("ann", "first"), ("ann", "first"), ("first", "first")]
    listeners.tell("bob", "second", outs)
    listeners.tell("eve", "third", outs)
    assert told[3:] == [("bob", "second")]
    for stop in stops:
        stop()
    listeners.tell("ann", "first", outs)
    assert len(told) == 4


def test_a_listener_that_stops_while_it_is_told_keeps_no_other_from_hearing() -> None:
    listeners, told = Listeners(), []
    stop = listeners.of_job("job", lambda job_id, outs: stop())
    listeners.of_job("job", lambda job_id, outs: told.append(job_id))
    listeners.tell("ann", "job", ())
    assert told == ["job"]


# Following.


async def test_followers_of_a_running_job_hear_all_of_it_wherever_they_begin(road: Road) -> None:
    row = await accepted(road, LONG)
    found = await asyncio.gather(*(heard(road, row, after) for after in (0, 0, row.seq)))
    for news in found:
        assert [one.seq for one in news] == list(range(1, 102))
        assert [one.kind for one in news[-2:]] == ["partial", "final"]


async def test_a_follower_of_a_job_that_has_ended_hears_what_is_left(road: Road) -> None:
    row = await accepted(road, LONG)
    await road.final(row.id)
    row = await road.queue.job(row.id, ME)
    assert [one.seq for one in await heard(road, row, 99)] == [100, 101]
    assert await heard(road, row, 101) == []
    assert [one.seq for one in await heard(road, row, 500)] == list(range(1, 102))


async def test_a_follower_that_leaves_is_told_nothing_more(road: Road) -> None:
    row = await accepted(road, LONG)
    async with aclosing(road.following.follow(row)) as news:
        assert await anext(news)
    before = await road.final(row.id)
    assert before["seq"] == 101
    assert not road.queue.listeners._of_job


async def test_a_silent_job_shows_that_the_line_is_alive(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HEARTBEAT_SECONDS", 0.01)
    road.transport.hold(["toy"])
    row = await accepted(road, {"type": "toy", "words": ["w"]})
    async with aclosing(road.following.follow(row)) as news:
        assert [await anext(news) for _ in range(3)] == [None] * 3
        road.transport.hold([])
        async for one in news:
            last = one
    assert last is not None
    assert last.kind == "final"


async def test_a_job_that_lies_in_the_ledger_is_followed_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server has it in hand for now: that is not its end."""
    monkeypatch.setattr(following, "HEARTBEAT_SECONDS", 0.01)
    before = await Road(tmp_path, [Toy]).start()
    before.transport.hold(["toy"])
    row = await accepted(before, {"type": "toy", "words": ["w"]})
    await before.close()
    road = Road(tmp_path, [Toy])
    assert not road.queue.is_open(row.id)
    async with aclosing(road.following.follow(row)) as news:
        assert [await anext(news) for _ in range(3)] == [None] * 3
        waiting = asyncio.create_task(road.following.answer(row.id, PATIENCE))
        await road.start()
        kept = [one async for one in news if one is not None and one.seq is not None]
    assert kept[-1].kind == "final"
    assert await waiting == orjson.loads(kept[-1].body)
    await road.close()


async def test_a_job_beyond_its_retention_ends_its_followers(road: Road) -> None:
    row = await accepted(road, LONG)
    await road.final(row.id)
    while road.queue.is_open(row.id):
        await asyncio.sleep(0)
    await Retention(road.ledger, road.folders, hours=0).sweep()
    assert await heard(road, row) == []


# Waiting for an answer.


async def test_an_answer_comes_when_it_is_there_and_is_still_there_later(road: Road) -> None:
    row = await accepted(road, LONG)
    first = await road.following.answer(row.id, PATIENCE)
    assert first is not None
    assert (first["status"], first["seq"]) == ("success", 101)
    assert await road.following.answer(row.id, 0) == first


async def test_who_waits_too_shortly_gets_none(road: Road) -> None:
    road.transport.hold(["toy"])
    row = await accepted(road, {"type": "toy", "words": ["w"]})
    assert await road.following.answer(row.id, 0) is None
    assert await road.following.answer(row.id, 0.01) is None


async def test_who_waits_when_the_server_stops_waits_no_longer(road: Road) -> None:
    road.transport.hold(["toy"])
    row = await accepted(road, {"type": "toy", "words": ["w"]})
    waiting = asyncio.create_task(road.following.answer(row.id, PATIENCE))
    await asyncio.sleep(0)
    road.following.close()
    assert await waiting is None
    assert await road.following.answer(row.id, PATIENCE) is None


async def test_no_more_than_some_may_wait_at_once(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_WAITING", 2)
    road.transport.hold(["toy"])
    row = await accepted(road, {"type": "toy", "words": ["w"]})
    waiting = [asyncio.create_task(road.following.answer(row.id, PATIENCE)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await road.following.answer(row.id, PATIENCE) is None
    road.transport.hold([])
    assert all(answer is not None for answer in await asyncio.gather(*waiting))


async def test_strangers_hear_nothing_of_a_job(road: Road) -> None:
    told: list[str] = []
    road.queue.listeners.of_client(YOU.client, lambda job_id, outs: told.append(job_id))
    await road.final((await accepted(road, LONG)).id)
    assert told == []
