"""A process that keeps more and more memory is replaced between two tasks, and nobody notices."""

from __future__ import annotations

import asyncio
import dataclasses
import mmap
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.errors import OutOfMemory, as_failure
from contract.launch import Launch
from contract.messages import Event, Task
from pipeline.transport.local import LocalTransport
from pipeline.transport.pool import Pool
from tests import drive
from tests.toys.grower import Grower
from workers.runtime.discovery import add_folders, discover
from workers.runtime.growth import BUSY_SECONDS, Growth, ram_gb
from workers.runtime.host import serve

TOYS = Path(__file__).parent / "toys"


@asynccontextmanager
async def grower(folder: Path, **settings: Any) -> AsyncIterator[LocalTransport]:
    add_folders([TOYS])
    toy: type[Grower] = discover()["grower"]  # type: ignore[assignment]
    crew = {"grower": (toy, toy.Settings(**settings))}
    transport = LocalTransport(crew, serve, Launch(drive.folders(folder), (TOYS,)))
    await transport.start()
    yield transport
    await transport.close()


def task(job: str, **params: Any) -> Task:
    return Task(job, "grower", (), "grower", params, client="c")


async def end(transport: LocalTransport, job: str) -> Event:
    async with asyncio.timeout(30):
        async for events in transport.events():
            for event in events:
                if event.job == job and event.kind in ("done", "failed", "lost"):
                    return event
    raise AssertionError("events never end")


def pid(transport: LocalTransport) -> int | None:
    processes = transport.status()["grower"]["processes"]
    return processes[0]["pid"] if processes else None


async def test_a_grown_process_is_replaced_when_its_task_has_ended(tmp_path: Path) -> None:
    async with grower(tmp_path) as transport:
        transport.submit(task("large", holds_mb=100))
        first = (await end(transport, "large")).data
        transport.submit(task("leak", leaks_mb=100))
        assert (await end(transport, "leak")).data == first
        async with asyncio.timeout(30):
            while pid(transport) in (first, None):  # a successor is there before anybody asks
                await asyncio.sleep(0)
        transport.submit(task("next"))
        assert (await end(transport, "next")).data == pid(transport) != first
        status = transport.status()["grower"]
        assert (status["restarts"], status["replaced"]) == (0, 1)


async def test_one_that_is_never_idle_does_what_it_holds_while_another_takes_the_rest(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with grower(tmp_path, at_once=True) as transport:
        transport.submit(task("long", leaks_mb=100, pipe=str(pipe)))
        async with asyncio.timeout(30):
            while not transport.status()["grower"]["replaced"]:
                await asyncio.sleep(0)
        transport.submit(task("other"))
        other = await end(transport, "other")
        await asyncio.to_thread(pipe.write_text, "now")
        long = await end(transport, "long")
        assert (long.kind, other.kind, long.data != other.data) == ("done", "done", True)


async def test_without_a_limit_it_stays(tmp_path: Path) -> None:
    async with grower(tmp_path, max_growth_gb=0.0) as transport:
        transport.submit(task("leak", leaks_mb=100))
        first = (await end(transport, "leak")).data
        transport.submit(task("next"))
        assert (await end(transport, "next")).data == first
        assert transport.status()["grower"]["replaced"] == 0


def test_only_what_is_held_all_the_time_counts_while_there_is_work() -> None:
    held = [1.0]
    growth = Growth(2.0, lambda: held[0])
    looks = [(3.5, False, 0.0), (2.5, False, 300.0), (4.0, False, 400.0), (4.0, False, 399.0 + BUSY_SECONDS)]
    for held[0], idle, now in looks:
        assert not growth.look(idle, now)[1]
    assert growth.look(False, 400.0 + BUSY_SECONDS)[1]
    assert not growth.look(True, 401.0 + BUSY_SECONDS)[1]


def test_a_process_without_work_has_grown_at_once() -> None:
    held = [1.0]
    growth = Growth(2.0, lambda: held[0])
    held[0] = 3.1
    assert growth.look(True, 0.0)[1]


def test_what_is_read_of_mapped_files_does_not_count(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"x" * (100 << 20))
    growth, before = Growth(0.05), ram_gb()
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped.find(b"y") == -1
        held, grown = growth.look(True, 0.0)
    assert held is not None
    assert before is not None
    assert (held > before + 0.05, grown) == (True, False)


class Flat:
    """A process as far as a pool knows it."""

    def __init__(self, state: str, *held: Task) -> None:
        self.state, self.retiring, self.pid = state, True, 7
        self.info: dict[str, Any] = {}
        self.held = dict(enumerate(held))

    def send_task(self, task: Task) -> None:
        self.held[len(self.held)] = task


@asynccontextmanager
async def pool(folder: Path, monkeypatch: pytest.MonkeyPatch, process: Flat) -> AsyncIterator[tuple[Pool, list[None]]]:
    """A pool with a process that retires, and the starts of others."""
    starts: list[None] = []
    monkeypatch.setattr(Pool, "start", lambda self: starts.append(None))
    async with grower(folder) as transport:
        one = transport._pools["grower"]
        one.processes = [process]  # type: ignore[list-item]
        yield one, starts
        one.processes = []


async def test_a_successor_waits_until_the_memory_of_one_that_leaves_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path, monkeypatch, Flat("leaving")) as (one, starts):
        one.submit(task("next"))
        assert starts == []
        one.processes.clear()
        one.feed()
        assert len(starts) == 1


async def test_one_that_listens_for_hours_takes_tasks_where_it_can_have_no_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Flat("ready", dataclasses.replace(task("recording"), live=True))
    async with pool(tmp_path, monkeypatch, process) as (one, starts):
        one.submit(task("next"))
        assert (len(process.held), len(starts)) == (1, 1)
        one.last_failure = as_failure(OutOfMemory("The device is full."))
        one.feed()
        assert (len(process.held), len(starts)) == (2, 1)
        del process.held[0]
        one.submit(task("another"))
        assert (len(process.held), one.queued) == (1, 1)
