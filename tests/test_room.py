"""Models that a device cannot hold at once take turns: jobs wait for theirs, and fail only where nobody can leave."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest_asyncio

from contract.folders import Folders
from contract.launch import Launch
from contract.messages import Event, Task
from pipeline.transport.local import LocalTransport
from pipeline.transport.room import Room
from tests import drive
from workers.runtime.discovery import add_folders, discover
from workers.runtime.host import serve

TOYS = Path(__file__).parent / "toys"


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[LocalTransport]:
    add_folders([TOYS])
    folders: Folders = drive.folders(tmp_path)
    crew = {name: (toy, toy.Settings()) for name in ("hog", "sow", "boar") if (toy := discover()[name])}
    transport = LocalTransport(crew, serve, Launch(folders, (TOYS,)))
    await transport.start()
    yield transport
    await transport.close()


def task(worker: str, job: str, pipe: Path | None = None) -> Task:
    return Task(job, worker, (), worker, {"pipe": str(pipe) if pipe else None}, client="c")


async def ends(transport: LocalTransport, count: int) -> dict[str, Event]:
    found: dict[str, Event] = {}
    async with asyncio.timeout(30):
        async for events in transport.events():
            found |= {event.job: event for event in events if event.kind in ("done", "failed", "lost")}
            if len(found) == count:
                break
    return found


async def test_an_idle_model_leaves_for_one_that_does_not_fit_beside_it(device: LocalTransport) -> None:
    for worker in ("hog", "sow", "hog"):
        device.submit(task(worker, worker))
        assert (await ends(device, 1))[worker].data == worker
    states = {name: status["state"] for name, status in device.status().items()}
    assert states == {"hog": "ready", "sow": "idle", "boar": "idle"}


async def test_a_busy_model_does_what_it_holds_and_then_leaves(device: LocalTransport, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    device.submit(task("hog", "long", pipe))
    await started(device, "long")
    for job in ("next", "last", "after"):
        device.submit(task("hog", job))
    device.submit(task("sow", "other"))
    async for _ in device.events():  # of which one is that a process has gone
        if device.status()["sow"]["state"] == "waiting":
            break
    await asyncio.to_thread(pipe.write_text, "now")
    found = await ends(device, 5)
    assert {job: event.kind for job, event in found.items()} == dict.fromkeys(found, "done")
    assert list(found).index("other") < list(found).index("after")


async def started(transport: LocalTransport, job: str) -> None:
    async for events in transport.events():
        if any((event.kind, event.job) == ("started", job) for event in events):
            return


async def test_three_models_share_a_device_that_holds_one(device: LocalTransport) -> None:
    jobs = [task(worker, f"{worker}{number}") for number in range(4) for worker in ("hog", "sow", "boar")]
    for one in jobs:
        device.submit(one)
    found = await ends(device, 12)
    assert {event.kind for event in found.values()} == {"done"}


class Flat:
    """A tenant as far as the room knows it."""

    def __init__(self, state: str) -> None:
        self.name = state
        self.blocked = False
        self.processes: list[Any] = [SimpleNamespace(state=state, retiring=False, info={})]
        self.fed = 0

    def feed(self) -> None:
        self.fed += 1


def test_a_model_waits_for_one_that_loads_and_may_have_the_memory() -> None:
    loading, newcomer = Flat("starting"), Flat("leaving")
    room = Room([loading, newcomer])
    assert room.make(newcomer)
    assert newcomer.blocked
    loading.processes[0].state = "ready"
    room.settled(loading)
    assert (newcomer.blocked, newcomer.fed) == (False, 1)
    assert not room.make(newcomer)


def test_a_model_that_another_was_faster_than_tries_again() -> None:
    """One leaves for it, and a third that was loading takes the memory; that one is ready when it waits for it."""
    leaving, faster, newcomer = Flat("ready"), Flat("starting"), Flat("leaving")
    leaving.processes[0].info = {"device": "cuda:0"}
    leaving.processes[0].held, leaving.processes[0].idle_since = {}, 0.0
    leaving.processes[0].retire = lambda then: then()
    room = Room([leaving, faster, newcomer])
    newcomer.processes[0].state = "starting"
    assert room.make(newcomer)
    leaving.processes.clear()
    newcomer.processes[0].state = "leaving"
    assert room.make(newcomer)
    assert newcomer.blocked
    faster.processes[0].state, tries = "ready", newcomer.fed
    room.settled(faster)
    assert (newcomer.blocked, newcomer.fed) == (False, tries + 1)


async def test_a_model_for_which_another_left_in_vain_is_refused(device: LocalTransport, tmp_path: Path) -> None:
    """Somebody else takes the memory that the other gave back."""
    device.submit(task("hog", "first"))
    assert (await ends(device, 1))["first"].data == "hog"
    with (tmp_path / "device").open("a") as other:
        taken = asyncio.create_task(asyncio.to_thread(fcntl.flock, other, fcntl.LOCK_EX))
        device.submit(task("sow", "refused"))
        assert (await ends(device, 1))["refused"].data["error_code"] == "OUT_OF_MEMORY"
        await taken
    for worker in ("sow", "hog"):
        device.submit(task(worker, worker))
        assert (await ends(device, 1))[worker].data == worker


async def test_a_model_that_fits_nowhere_is_refused(device: LocalTransport, tmp_path: Path) -> None:
    with (tmp_path / "device").open("a") as other:  # what has the memory is not ours
        fcntl.flock(other, fcntl.LOCK_EX)
        device.submit(task("sow", "refused"))
        failed = (await ends(device, 1))["refused"]
        assert (failed.kind, failed.data["error_code"]) == ("failed", "OUT_OF_MEMORY")
    device.submit(task("sow", "later"))
    assert (await ends(device, 1))["later"].data == "sow"
