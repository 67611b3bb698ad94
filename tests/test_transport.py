"""Every Transport keeps the same promises: one suite over all of them, with the same toy worker."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from contract.errors import UnsupportedMedia, as_failure
from contract.folders import Folders
from contract.framing import pack
from contract.launch import Launch
from contract.messages import BLOB, Event, Task
from contract.pipe import (
    MAX_FROM_WORKER,
    Beat,
    Cancel,
    Do,
    Events,
    Failure,
    FromWorker,
    Garbled,
    Grown,
    Info,
    Leave,
    Leaving,
    Loaded,
    More,
    Ready,
    ToWorker,
    Unavailable,
    encode,
    from_worker,
    to_worker,
)
from pipeline.transport.base import Transport
from pipeline.transport.local import LocalTransport
from pipeline.transport.process import GARBLED
from pipeline.transport.work_queue import WorkQueue
from storage.blobs import parts
from tests import drive
from tests.inline import InlineTransport
from tests.toys.toy import Toy
from workers.runtime.discovery import add_folders, discover
from workers.runtime.engine import PATIENCE, Engine
from workers.runtime.host import serve

TOYS = Path(__file__).parent / "toys"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return drive.folders(tmp_path / "data", tmp_path)


@pytest_asyncio.fixture(params=["inline", "local"])
async def transport(request: pytest.FixtureRequest, folders: Folders) -> AsyncIterator[Transport]:
    add_folders([TOYS])
    toys = {name: discover()[name] for name in ("toy", "waiter")}
    made: Transport
    if request.param == "inline":
        made = InlineTransport({name: toy(toy.Settings(), folders) for name, toy in toys.items()})
    else:
        made = LocalTransport(
            {name: (toy, toy.Settings()) for name, toy in toys.items()}, serve, Launch(folders, (TOYS,))
        )
    await made.start()
    yield made
    await made.close()


async def test_workers_wait_while_nobody_hears_them_and_then_say_all(transport: Transport) -> None:
    words = [f"w{number}" for number in range(300)]
    transport.submit(task("first"))
    await heard(transport, 1)
    transport.hold({"toy"})
    transport.submit(task("second", words=words))
    transport.hold({"toy"})
    for _ in range(5):
        transport.hold(())
        transport.hold({"toy"})
    transport.hold(())
    events = await heard(transport, 1)
    assert [event.data for event in events if event.kind == "partial"] == [word.upper() for word in words]
    assert [event.kind for event in events if event.kind in ("done", "failed", "lost")] == ["done"]


def task(job: str = "j", item: tuple[int, ...] = (), **params: Any) -> Task:
    return Task(job, "toy", item, "toy", {"words": ["a", "b"], **params}, client="c")


async def heard(transport: Transport, ends: int) -> list[Event]:
    """Everything up to so many ends of tasks."""
    found: list[Event] = []
    async for events in transport.events():
        found += events
        if sum(event.kind in ("done", "failed", "lost") for event in found) >= ends:
            return found
    raise AssertionError("events never end")


async def test_a_task_starts_speaks_and_ends_in_order(transport: Transport) -> None:
    transport.submit(task())
    events = await heard(transport, 1)
    kinds = [event.kind for event in events if event.kind != "progress"]
    assert kinds == ["started", "partial", "checkpoint", "partial", "checkpoint", "done"]
    assert events[-1].data["words"] == ["A", "B"]


async def test_tasks_share_batches_and_keep_apart(transport: Transport) -> None:
    for number in range(5):
        transport.submit(task(f"j{number}", words=[f"w{number}"] * 4))
    ends = {event.job: event.data for event in await heard(transport, 5) if event.kind == "done"}
    assert {job: end["words"][0] for job, end in ends.items()} == {f"j{number}": f"W{number}" for number in range(5)}
    assert max(end["largest_batch"] for end in ends.values()) == 2


async def test_a_unit_that_fails_fails_its_own_task_only(transport: Transport) -> None:
    for job, words in (("good", ["a", "b"]), ("bad", ["bad"]), ("crash", ["crash"])):
        transport.submit(task(job, words=words))
    ends = {event.job: event for event in await heard(transport, 3) if event.kind in ("done", "failed")}
    assert ends["good"].data["words"] == ["A", "B"]
    assert ends["bad"].data["error_code"] == "UNSUPPORTED_MEDIA"
    assert ends["crash"].data["error_code"] == "INTERNAL"


async def test_wrong_parameters_are_the_tasks_failure(transport: Transport) -> None:
    transport.submit(task(words="not a list"))
    assert (await heard(transport, 1))[-1].data["error_code"] == "INVALID_INPUT"


async def test_a_later_attempt_goes_on_from_the_checkpoint(transport: Transport) -> None:
    again = Task("j", "toy", (), "toy", {"words": ["a", "b", "c"]}, "c", attempt=2, checkpoint=2, finished=("A", "B"))
    transport.submit(again)
    events = await heard(transport, 1)
    assert [event.index for event in events if event.kind == "partial"] == [2]
    assert events[-1].data["words"] == ["A", "B", "C"]
    assert {event.attempt for event in events} == {2}


async def test_a_large_field_of_a_result_travels_as_a_blob(transport: Transport, folders: Folders) -> None:
    transport.submit(task(padding=100_000))
    data = (await heard(transport, 1))[-1].data
    assert data["words"] == ["A", "B"]
    assert data["padding"].keys() == {BLOB, "bytes"}
    whole = b"".join(part if isinstance(part, bytes) else part.read_bytes() for part in parts({"toy": data}, folders))
    assert len(orjson.loads(whole)["toy"]["padding"]) == 100_000


async def test_a_cancelled_job_is_not_run(transport: Transport) -> None:
    transport.submit(task("gone", words=["w"] * 1000))
    transport.cancel("gone")
    transport.submit(task("kept"))
    ends = [event for event in await heard(transport, 1) if event.kind in ("done", "failed")]
    assert [event.job for event in ends] == ["kept"]


async def test_a_task_may_ask_for_several_units_at_once(transport: Transport) -> None:
    """They share batches, come back in order, and one that fails fails its own task only."""
    transport.submit(task("list", words=["a", "b", "c", "d", "e"], at_once=3))
    transport.submit(task("bad", words=["a", "bad", "c"], at_once=3))
    transport.submit(task("empty", words=["a"], at_once=0))
    ends = {event.job: event.data for event in await heard(transport, 3) if event.kind in ("done", "failed")}
    assert ends["list"]["words"] == ["A", "B", "C", "D", "E"]
    assert ends["list"]["largest_batch"] == 2
    assert ends["bad"]["error_code"] == "UNSUPPORTED_MEDIA"
    assert ends["empty"]["error_code"] == "INTERNAL"


def test_a_list_of_units_does_not_hold_up_other_tasks(folders: Folders) -> None:
    ended: list[str] = []
    toy = Toy(Toy.Settings(), folders)
    toy.load()
    engine = Engine(toy, lambda event: ended.append(event.job) if event.kind == "done" else None)
    engine.add(task("list", words=["l"] * 8, at_once=8))
    engine.add(task("short", words=["s"]))
    engine.step()
    assert ended == ["short"]
    steps = 1
    while engine.busy:
        engine.step()
        steps += 1
    assert ended == ["short", "list"]
    assert steps == 5


def test_who_comes_during_a_batch_goes_before_those_who_were_in_it(folders: Folders) -> None:
    """Also when a list of theirs has units left; and they are not kept waiting by a second one that comes."""

    class Meanwhile(Toy):
        def forward(self, units: list[str]) -> list[Any]:
            if len(self.batches) < 2:
                engine.add(task(f"short{len(self.batches)}", words=["s"]))
            said.append(units)
            return super().forward(units)

        def fits(self, batch: list[str], unit: str) -> bool:
            return unit == batch[0]

    said: list[list[str]] = []
    worker = Meanwhile(Toy.Settings(), folders)
    worker.load()
    engine = Engine(worker, lambda event: None)
    engine.add(task("long", words=["l"] * 3))
    while engine.busy:
        engine.step()
    assert said == [["l"], ["s"], ["l"], ["s"], ["l"]]


def test_who_listens_goes_first_but_holds_nobody_up_for_good(folders: Folders) -> None:
    class Alone(Toy):
        def fits(self, batch: list[str], unit: str) -> bool:
            return False

        def forward(self, units: list[str]) -> list[Any]:
            said.extend(units)
            return super().forward(units)

    said: list[str] = []
    worker = Alone(Toy.Settings(), folders)
    worker.load()
    engine = Engine(worker, lambda event: None)
    engine.add(task("file", words=["file"] * 2, at_once=2))
    for name in "ab":
        engine.add(dataclasses.replace(task(name, words=[name] * 8), live=True))
    while engine.busy:
        engine.step()
    assert said[:PATIENCE] == ["a", "b"] * (PATIENCE // 2)
    assert said[PATIENCE] == "file"
    assert said.count("file") == 2


def test_a_worker_says_what_fits_into_a_batch(folders: Folders) -> None:
    class Alike(Toy):
        def fits(self, batch: list[str], unit: str) -> bool:
            return len(unit) == len(batch[0])

        def forward(self, units: list[str]) -> list[Any]:
            said.append(units)
            return super().forward(units)

    said: list[list[str]] = []
    worker = Alike(Toy.Settings(), folders)
    worker.load()
    engine = Engine(worker, lambda event: None)
    engine.add(task("list", words=["a", "bb", "c", "dd"], at_once=4))
    while engine.busy:
        engine.step()
    assert said == [["a", "c"], ["bb", "dd"]]


async def test_a_process_that_ran_out_of_memory_leaves_and_the_rest_goes_on_in_another(folders: Folders) -> None:
    """The task fails, to be tried again; what else its process held comes back uncounted."""
    add_folders([TOYS])
    glutton = discover()["glutton"]
    transport = LocalTransport({"glutton": (glutton, glutton.Settings(threads=1))}, serve, Launch(folders, (TOYS,)))
    await transport.start()
    tasks = [Task(job, "s", (), "glutton", {"asks": asks}, client="c") for job, asks in (("bad", 99), ("good", 3))]
    for one in tasks:
        transport.submit(one)
    events = await heard(transport, 2)
    first = {event.job: event for event in events if event.kind in ("done", "failed", "lost")}
    assert first["bad"].data["error_code"] == "OUT_OF_MEMORY"
    assert (first["good"].kind, first["good"].data["counted"]) == ("lost", False)
    transport.submit(dataclasses.replace(tasks[1], attempt=2))
    again = await heard(transport, 1)
    assert again[-1].kind == "done"
    holders = {event.data for event in (*events, *again) if event.kind == "started"}
    assert len(holders) == 2
    assert transport.status()["glutton"]["restarts"] == 1
    await transport.close()


async def test_a_process_without_a_model_that_ran_out_of_memory_says_so(folders: Folders) -> None:
    add_folders([TOYS])
    gobbler = discover()["gobbler"]
    transport = LocalTransport({"gobbler": (gobbler, gobbler.Settings())}, serve, Launch(folders, (TOYS,)))
    await transport.start()
    transport.submit(Task("bad", "s", (), "gobbler", {"asks": 99}, client="c"))
    events = await heard(transport, 1)
    assert events[-1].data["error_code"] == "OUT_OF_MEMORY"
    await transport.close()


def waiting(job: str, folder: Path) -> tuple[Task, Path]:
    """A task that ends when somebody writes into the pipe."""
    pipe = folder / job
    os.mkfifo(pipe)
    return Task(job, "waiter", (), "waiter", {"fifo": str(pipe)}, client="c"), pipe


async def test_tasks_that_wait_are_under_way_together(transport: Transport, tmp_path: Path) -> None:
    first, first_pipe = waiting("first", tmp_path)
    second, second_pipe = waiting("second", tmp_path)
    transport.submit(first)
    transport.submit(second)
    await asyncio.to_thread(second_pipe.write_text, "b")
    await asyncio.to_thread(first_pipe.write_text, "a")
    ends = [(event.job, event.data) for event in await heard(transport, 2) if event.kind == "done"]
    assert sorted(ends) == [("first", {"text": "a"}), ("second", {"text": "b"})]


async def test_a_waiting_task_is_cancelled_once_its_thread_has_ended(transport: Transport, tmp_path: Path) -> None:
    task, _ = waiting("gone", tmp_path)
    transport.submit(task)
    async for events in transport.events():
        if any(event.kind == "progress" for event in events):
            break
    transport.cancel("gone")
    end = (await heard(transport, 1))[-1]
    assert (end.kind, end.data["counted"]) == ("lost", False)


async def test_a_process_that_says_what_is_no_message_is_killed(folders: Folders, tmp_path: Path) -> None:
    """Its task comes back, counted, and the next one has a process of its own."""
    add_folders([TOYS])
    toy = discover()["toy"]
    transport = LocalTransport({"toy": (toy, toy.Settings())}, serve, Launch(folders, (TOYS,)))
    await transport.start()
    transport.submit(task("first"))
    await heard(transport, 1)
    [process] = transport._pools["toy"].processes
    transport.submit(task("held", words=["w"] * 100_000))
    process.data_received(encode(Beat(0.0)).replace(b"beat", b"bead"))
    lost = (await heard(transport, 1))[-1]
    assert (lost.kind, lost.job, lost.data["counted"], lost.data["reason"]) == ("lost", "held", True, GARBLED)
    transport.submit(task("next"))
    assert (await heard(transport, 1))[-1].kind == "done"
    await transport.close()


async def test_a_process_tells_of_its_own_tasks_only(folders: Folders) -> None:
    add_folders([TOYS])
    toy = discover()["toy"]
    transport = LocalTransport({"toy": (toy, toy.Settings())}, serve, Launch(folders, (TOYS,)))
    await transport.start()
    transport.submit(task("first"))
    await heard(transport, 1)
    [process] = transport._pools["toy"].processes
    process.data_received(encode(Events((Event.of(task("anothers"), "done", "forged"),))))
    assert not transport.left()
    await transport.close()


@pytest.mark.parametrize(
    "frame",
    [
        pack(None),
        pack("beat"),
        pack([]),
        pack(["beat"]),
        pack(["do", {}]),
        pack([["beat"], {}]),
        pack([{"beat": 1}, {}]),
        pack(["beat", {"step": "long"}]),
        pack(["beat", {"step": None}]),
        pack(["ready", {"facts": []}]),
        pack(["unavailable", {"failure": {"error_code": 5, "message": "m"}}]),
        pack(["events", {"events": [{"job": ["j"], "stage": "s", "item": [], "kind": "done", "attempt": 1}]}]),
        pack(["events", {"events": [{"job": "j", "stage": "s", "item": [[]], "kind": "done", "attempt": 1}]}]),
        pack(["events", {"events": [{"job": "j", "stage": "s", "item": [], "kind": "eaten", "attempt": 1}]}]),
        (5).to_bytes(4, "little") + b"[\x00\xff]]",
        (MAX_FROM_WORKER + 1).to_bytes(4, "little"),
    ],
)
def test_what_is_no_message_of_the_pipe_is_known_as_such(frame: bytes) -> None:
    with pytest.raises(Garbled):
        list(from_worker().feed(encode(Loaded()) + frame))


def test_messages_come_through_the_pipe_as_they_were(folders: Folders) -> None:
    one = dataclasses.replace(task(item=(3, 0)), live=True, ended=True, finished=("a", {"b": 1}))
    asked: list[ToWorker] = [Do(one), More("j", ended=True), Cancel("j"), Leave()]
    wire = b"".join(map(encode, asked))
    reader = to_worker()
    assert [message for start in range(0, len(wire), 7) for message in reader.feed(wire[start : start + 7])] == asked
    failure = Failure(**as_failure(UnsupportedMedia("It is no film.", field="file")))
    told: list[FromWorker] = [
        Loaded(),
        Ready({"pid": 1}),
        Unavailable(failure),
        Leaving("r"),
        Info({"a": 1}),
        Grown(),
        Beat(0.5),
    ]
    told.append(Events((Event.of(one, "done", {"words": ["A"]}), Event.of(one, "partial", "A", 0))))
    assert list(from_worker().feed(b"".join(map(encode, told)))) == told
    assert failure.body() == as_failure(UnsupportedMedia("It is no film.", field="file"))


async def test_status_counts_what_waits(transport: Transport) -> None:
    assert transport.status()["toy"]["queued"] == 0


def test_the_latest_progress_is_told_when_a_step_is_long(folders: Folders) -> None:
    told: list[Event] = []
    toy = Toy(Toy.Settings(), folders)
    toy.load()
    engine = Engine(toy, told.append)
    engine.add(task(words=["a", "b", "c", "d"]))
    for _ in range(3):
        engine.step()
    [hint] = engine.late_hints()
    assert hint.data["fraction"] == 0.75
    assert [event.data["fraction"] for event in told if event.kind == "progress"] == [0.25]
    engine.step()
    assert engine.late_hints() == []


def test_clients_take_turns() -> None:
    queue = WorkQueue()
    for number in range(3):
        queue.put(Task(f"many{number}", "s", (), "toy", {}, "me", queued_as="many"))
    queue.put(Task("single", "s", (), "toy", {}, "me", queued_as="single"))
    assert [queue.take().job for _ in range(4)] == ["many0", "single", "many1", "many2"]


def test_priority_goes_before_turns() -> None:
    queue = WorkQueue()
    queue.put(Task("low", "s", (), "toy", {}, client="a"))
    queue.put(Task("high", "s", (), "toy", {}, client="a", priority=1))
    assert queue.take().job == "high"
