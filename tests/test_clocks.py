"""Clocks that jump by days or years, while a server runs and between two runs: nothing is lost or stays for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from contract import clock
from contract.folders import Folders
from pipeline.steps import State
from storage import retention
from storage.records import Change
from storage.retention import DAY, Retention, account
from storage.sqlite import SqliteLedger
from tests.roads import ME, Road
from tests.test_broken_ledger import Echo, change
from tests.test_ledger import file, job

YEARS = 10 * 365 * DAY
JUMPS = [-YEARS, -30 * DAY, -DAY, 30 * DAY, YEARS]


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    yield ledger
    await ledger.close()


def retained(ledger: SqliteLedger, tmp_path: Path, hours: float = 72) -> Retention:
    return Retention(ledger, Folders((), tmp_path, tmp_path, tmp_path, tmp_path), hours)


@pytest.mark.parametrize("jump", JUMPS)
def test_time_goes_on_whatever_the_machines_clock_says(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    before, wall = clock.now(), time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    assert 0 <= clock.now() - before < 60


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_restart_with_another_clock_loses_no_job_and_no_answer(
    tmp_path: Path, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = clock.now()
    upload = file(created_at=now - DAY)
    await ledger.accept(Change(job("open", created_at=now, deadline=now + 3600), files=(upload,)))
    await ledger.accept(Change(job("done", created_at=now - DAY, deadline=now, finished_at=now - DAY)))
    ledger.see(now)
    await ledger.settled()
    monkeypatch.setattr(clock, "now", lambda: now + jump)
    await account(ledger, clock.now())
    await retained(ledger, tmp_path).sweep()
    (stored,) = await ledger.unfinished()
    assert stored.job.deadline - clock.now() == pytest.approx(3600, abs=1e-3)
    done = await ledger.job("done")
    assert done is not None
    assert DAY <= clock.now() - (done.finished_at or 0) + 1e-3 <= 2 * DAY + 1
    assert await ledger.file(upload.id) is not None
    monkeypatch.setattr(clock, "now", lambda: now)  # and back again
    await account(ledger, now)
    await retained(ledger, tmp_path).sweep()
    assert {"open"} == {stored.job.id for stored in await ledger.unfinished()}
    assert await ledger.job("done") is not None


async def test_jobs_go_on_in_a_server_whose_clock_is_30_days_ahead(tmp_path: Path) -> None:
    """As seen from that clock, everything is 30 days old."""
    road = Road(tmp_path, [Echo])
    jobs = [await road.queue.submit({"type": "echo", "text": "x"}, ME) for _ in range(13)]
    await road.ledger.settled()
    await road.ledger.close()
    times = ("created_at", "deadline")
    moved = ", ".join(f"{name}={name}-{30 * DAY}" for name in times)
    change(tmp_path / "data" / "ledger.sqlite3", f"UPDATE jobs SET {moved}", "DELETE FROM clock")
    road = Road(tmp_path, [Echo])
    keeper = Retention(road.ledger, road.folders, 72)
    await keeper.start()
    await road.start()
    assert [(await road.final(each))["status"] for each in jobs] == ["success"] * 13
    await keeper.close()
    await road.close()


async def test_short_times_off_count_for_ages_and_never_for_deadlines(ledger: SqliteLedger) -> None:
    await ledger.accept(Change(job("open", created_at=1000.0, deadline=2000.0)))
    await ledger.accept(Change(job("waits", created_at=1000.0, deadline=2000.0, waiting_for="x", waiting_since=1500.0)))
    ledger.see(1600.0)
    await ledger.settled()
    await account(ledger, 1600.0 + 7200)
    found = {stored.job.id: stored.job for stored in await ledger.unfinished()}
    assert (found["open"].created_at, found["open"].deadline) == (1000.0, 2000.0 + 7200)
    assert (found["waits"].deadline, found["waits"].waiting_since) == (2000.0, 1500.0)
    assert await ledger.seen() == 1600.0 + 7200


async def test_a_file_that_an_unfinished_job_names_stays(tmp_path: Path, ledger: SqliteLedger) -> None:
    now = clock.now()
    needed, old = file(created_at=now - 4 * DAY), file(path="/data/uploads/b", created_at=now - 4 * DAY)
    await ledger.keep(needed)
    await ledger.keep(old)
    await ledger.accept(Change(job(created_at=now, params={"file": needed.path}, state=State.PENDING)))
    await retained(ledger, tmp_path).sweep()
    assert await ledger.file(needed.id) is not None
    assert await ledger.file(old.id) is None


async def test_what_becomes_due_is_swept_then_and_not_by_the_hour(
    tmp_path: Path, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LEAST_SWEEP_SECONDS", 0.01)
    soon = clock.now() - 72 * 3600 + 0.2
    await ledger.accept(Change(job(created_at=soon, finished_at=soon)))
    ledger.see(clock.now())
    await ledger.settled()
    keeper = retained(ledger, tmp_path)
    await keeper.start()
    assert await ledger.job("job") is not None
    async with asyncio.timeout(30):
        while await ledger.job("job") is not None:
            await asyncio.sleep(0)
    await keeper.close()
