"""The engine's second lane: what tasks do around the model, beside it."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.errors import UnsupportedMedia
from contract.folders import Folders
from contract.messages import Event, Task
from tests.drive import folders as folders_in
from tests.inline import over_the_pipe
from workers.base import TURN, Answer, Context, Params, Run, Worker
from workers.runtime import lane
from workers.runtime.engine import Engine

PATIENCE = 30.0
ENDS = ("done", "failed", "lost")


class PreparedParams(Params):
    words: list[str]


Script = Callable[[PreparedParams, Context], Run]


class Prepared(Worker):
    """Runs the test's own script."""

    name = "prepared"
    message_type = "prepared"
    Params = PreparedParams
    batch = 4
    script: Script

    def run(self, params: PreparedParams, ctx: Context) -> Run:
        return self.script(params, ctx)

    def forward(self, units: list[Any]) -> list[Any]:
        self.batches = [*getattr(self, "batches", []), list(units)]
        return [UnsupportedMedia("It is no word.") if unit == "bad" else unit.upper() for unit in units]


class Driven:
    """An engine with threads, stepped as its process would."""

    def __init__(self, worker: Worker, threads: int = 2) -> None:
        self.events: list[Event] = []
        self._woken = threading.Semaphore(0)
        self.engine = Engine(worker, self._take, threads, self._woken.release)

    def _take(self, event: Event) -> None:
        self.events.append(over_the_pipe(event))

    def add(self, *names: str, words: list[str], live: bool = False) -> None:
        for name in names:
            task = Task(name, "s", (), "prepared", {"words": words}, client="c")
            self.engine.add(dataclasses.replace(task, live=live))

    def until(self, there: Callable[[], Any]) -> None:
        while not there():
            if self.engine.busy:
                self.engine.step()
            else:
                assert self._woken.acquire(timeout=PATIENCE), "nothing happens any more"

    def ends(self) -> dict[str, Any]:
        return {event.job: event.data for event in self.events if event.kind in ENDS}


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short a slice is, it belongs to the threads."""
    monkeypatch.setattr(lane, "BRIEF_SECONDS", -1.0)


@pytest.fixture
def worker(tmp_path: Path) -> Prepared:
    folders: Folders = folders_in(tmp_path / "data", tmp_path)
    return Prepared(Prepared.Settings(), folders)


def asking(params: PreparedParams, ctx: Context) -> Run:
    said = []
    for word in params.words:
        said.append((yield word))
    return said


def ahead(params: PreparedParams, ctx: Context) -> Run:
    asked = [ctx.ask(word) for word in params.words]
    said = []
    for answer in asked:
        said.append((yield answer))
    return said


def in_order(order: list[str], begun: threading.Event) -> Script:
    """Notes whose slice it is; the task with the word `hold` holds its thread until the test lets it go."""

    def script(params: PreparedParams, ctx: Context) -> Run:
        if params.words == ["hold"]:
            assert begun.wait(PATIENCE)
        order.extend(params.words)
        return (yield params.words[0])

    return script


def test_a_task_prepares_while_the_model_computes(worker: Prepared) -> None:
    """The model waits in mid-batch for what another task prepares: in one lane that would be for ever."""
    prepared = threading.Event()

    def script(params: PreparedParams, ctx: Context) -> Run:
        if params.words == ["second"]:
            assert threading.current_thread() is not threading.main_thread()
            prepared.set()
        return (yield params.words[0])

    def forward(units: list[str]) -> list[str]:
        assert threading.current_thread() is threading.main_thread()
        if units == ["first"]:
            driven.add("b", words=["second"])
            assert prepared.wait(PATIENCE)
        return units

    worker.script = script
    worker.forward = forward  # type: ignore[method-assign]
    driven = Driven(worker)
    driven.add("a", words=["first"])
    driven.until(lambda: len(driven.ends()) == 2)
    assert driven.ends() == {"a": "first", "b": "second"}


def test_units_that_are_asked_for_ahead_share_batches_and_come_back_in_order(worker: Prepared) -> None:
    worker.script = ahead
    driven = Driven(worker)
    driven.add("a", words=["a", "b", "c", "d", "e"])
    driven.until(driven.ends)
    assert driven.ends() == {"a": ["A", "B", "C", "D", "E"]}
    assert sum(map(len, worker.batches)) == 5


def test_without_threads_units_asked_for_ahead_fill_a_batch(worker: Prepared) -> None:
    worker.script = ahead
    driven = Driven(worker, threads=0)
    driven.add("a", words=["a", "b", "c", "d", "e"])
    driven.until(driven.ends)
    assert worker.batches == [["a", "b", "c", "d"], ["e"]]


def test_what_fails_is_raised_where_its_answer_is_waited_for(worker: Prepared) -> None:
    def script(params: PreparedParams, ctx: Context) -> Run:
        bad, good = ctx.ask("bad"), ctx.ask("good")
        said = yield good
        with pytest.raises(UnsupportedMedia):
            yield bad
        return [said, (yield [good, "more"])]

    worker.script = script
    driven = Driven(worker)
    driven.add("a", words=[])
    driven.until(driven.ends)
    assert driven.ends() == {"a": ["GOOD", ["GOOD", "MORE"]]}


def test_tasks_take_turns_in_the_lane(worker: Prepared) -> None:
    """One thread, two tasks that prepare for long: neither waits until the other has done."""
    order: list[str] = []

    def script(params: PreparedParams, ctx: Context) -> Run:
        if params.words == ["hold"]:
            assert begun.wait(PATIENCE)
            return (yield "hold")
        for _ in range(3):
            order.extend(params.words)
            yield TURN
        return (yield params.words[0])

    begun = threading.Event()
    worker.script = script
    driven = Driven(worker, threads=1)
    driven.add("hold", words=["hold"])  # so that both others are there before the thread is free
    driven.add("a", words=["a"])
    driven.add("b", words=["b"])
    begun.set()
    driven.until(lambda: len(driven.ends()) == 3)
    assert order == ["a", "b"] * 3


def test_who_listens_is_prepared_first(worker: Prepared) -> None:
    order, begun = list[str](), threading.Event()
    worker.script = in_order(order, begun)
    driven = Driven(worker, threads=1)
    driven.add("hold", words=["hold"])
    driven.add("file", words=["file"])
    driven.add("live", words=["live"], live=True)
    begun.set()
    driven.until(lambda: len(driven.ends()) == 3)
    assert order.index("live") < order.index("file")


def test_a_task_is_cancelled_between_two_of_its_slices(worker: Prepared) -> None:
    """Not before its thread lets go of it; its units are computed no more, and it says nothing after its end."""
    closed: list[str] = []

    def script(params: PreparedParams, ctx: Context) -> Run:
        try:
            inside.set()
            assert go_on.wait(PATIENCE)
            yield ctx.ask("never")
        finally:
            closed.append("closed")

    inside, go_on = threading.Event(), threading.Event()
    worker.script = script
    driven = Driven(worker)
    driven.add("a", words=[])
    assert inside.wait(PATIENCE)
    driven.engine.cancel("a")
    assert driven.ends() == {}
    go_on.set()
    driven.until(driven.ends)
    assert [event.kind for event in driven.events] == ["lost"]
    assert closed == ["closed"]
    assert not driven.engine.busy
    assert not hasattr(worker, "batches")


def test_a_task_that_stands_at_its_answer_is_cancelled_at_once(worker: Prepared) -> None:
    worker.script = ahead
    driven = Driven(worker)
    driven.add("a", words=["a", "b"])
    driven.until(lambda: driven.engine.busy)
    driven.engine.cancel("a")
    driven.until(driven.ends)
    assert [event.kind for event in driven.events] == ["lost"]
    assert not driven.engine.busy


def test_the_oldest_step_in_hand_is_told_and_none_when_there_is_none(worker: Prepared) -> None:
    def script(params: PreparedParams, ctx: Context) -> Run:
        inside.set()
        assert go_on.wait(PATIENCE)
        return (yield "a")

    inside, go_on = threading.Event(), threading.Event()
    worker.script = script
    driven = Driven(worker)
    driven.add("a", words=[])
    assert inside.wait(PATIENCE)
    assert driven.engine.step_started is not None
    go_on.set()
    driven.until(driven.ends)
    assert driven.engine.forward_seconds > 0
    driven.until(lambda: driven.engine.step_started is None)


def test_short_slices_stay_on_the_models_thread(worker: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BRIEF_SECONDS", PATIENCE)
    threads: set[str] = set()

    def script(params: PreparedParams, ctx: Context) -> Run:
        threads.add(threading.current_thread().name)
        yield "a"
        threads.add(threading.current_thread().name)
        return None

    worker.script = script
    driven = Driven(worker)
    driven.add("a", "b", words=[])
    driven.until(lambda: len(driven.ends()) == 2)
    assert threads == {threading.main_thread().name}


def test_every_answer_comes_once_whatever_the_threads_do(worker: Prepared) -> None:
    """Many tasks that ask ahead, take turns and wait in every order."""

    def script(params: PreparedParams, ctx: Context) -> Run:
        said: list[str] = []
        waiting: list[Answer] = []
        for number, word in enumerate(params.words):
            waiting.append(ctx.ask(word))
            if number % 3 == 0:
                yield TURN
            while len(waiting) > 2:
                said.append((yield waiting.pop(0)))
        said += yield waiting
        return said

    worker.script = script
    driven = Driven(worker, threads=4)
    names = [f"job{number}" for number in range(40)]
    for name in names:
        driven.add(name, words=[f"{name} {word}" for word in range(10)])
    driven.until(lambda: len(driven.ends()) == len(names))
    assert driven.ends() == {name: [f"{name} {word}".upper() for word in range(10)] for name in names}
    assert sum(map(len, worker.batches)) == 400


def test_slices_that_grow_short_or_long_are_done_all_the_same(
    worker: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever they are put for: the threads or the model's own may take them over at any slice."""
    monkeypatch.setattr(lane, "BRIEF_SECONDS", 0.002)
    monkeypatch.setattr(lane, "_WEIGHT", 0.6)
    pause = threading.Event()

    def script(params: PreparedParams, ctx: Context) -> Run:
        said = []
        for number, word in enumerate(params.words):
            pause.wait(0.004 if number % 5 == 0 else 0.0)
            yield TURN
            said.append((yield word))
        return said

    worker.script = script
    driven = Driven(worker)
    for number in range(12):
        driven.add(f"job{number}", words=[str(word) for word in range(number, number + 30)])
    driven.until(lambda: len(driven.ends()) == 12)


def test_slices_that_are_stuck_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BRIEF_SECONDS", -1.0)
    monkeypatch.setattr(lane, "STUCK_SECONDS", 0.01)
    threads = lane.Lane(2, lambda: None)
    go_on, done = threading.Event(), [threading.Event() for _ in range(3)]

    def stand() -> None:
        go_on.wait()

    for work in (stand, stand, done[0].set, stand, done[1].set, done[2].set):
        threads.put(work, first=False)
    try:
        assert all(event.wait(PATIENCE) for event in done)
    finally:
        go_on.set()


def test_who_listens_does_not_keep_others_out_of_the_lane(worker: Prepared) -> None:
    """Nor their cancelling: live tasks that never rest, and a file between them."""

    def script(params: PreparedParams, ctx: Context) -> Run:
        while params.words == ["live"] and not over.is_set():
            slices.append("live")
            yield TURN
        return (yield params.words[0])

    over, slices = threading.Event(), list[str]()
    worker.script = script
    driven = Driven(worker)
    driven.add("a", "b", "c", words=["live"], live=True)
    driven.add("file", words=["file"])
    driven.until(lambda: "file" in driven.ends())
    driven.add("cancelled", words=["live"])
    driven.engine.cancel("cancelled")
    driven.until(lambda: "cancelled" in driven.ends())
    over.set()
    driven.until(lambda: len(driven.ends()) == 5)


def test_a_task_that_waits_for_its_slice_is_cancelled_before_others_have_theirs(worker: Prepared) -> None:
    order, begun = list[str](), threading.Event()
    worker.script = in_order(order, begun)
    driven = Driven(worker, threads=1)
    driven.add("hold", words=["hold"])
    driven.add("other", words=["other"])
    driven.add("cancelled", words=["cancelled"])
    driven.engine.cancel("cancelled")
    begun.set()
    driven.until(lambda: len(driven.ends()) == 3)
    assert [event.job for event in driven.events] == ["cancelled", "hold", "other"]
    assert order == ["hold", "other"]


class Held:
    """What a unit holds of a GPU."""


@pytest.mark.parametrize("how", ["done", "early", "cancelled", "failed"])
def test_what_a_task_held_is_given_back_when_it_ends(worker: Prepared, how: str) -> None:
    """Without the collector, which may come late, and while the process has nothing to do."""
    held: list[weakref.ref[Held]] = []

    def script(params: PreparedParams, ctx: Context) -> Run:
        unit = Held()
        held.append(weakref.ref(unit))
        answer = ctx.ask(unit)
        del unit
        if how == "early":
            return None
        yield [answer, ctx.ask("bad")] if how == "failed" else answer
        return None

    worker.script = script
    worker.forward = lambda units: [ValueError() if unit == "bad" else unit for unit in units]  # type: ignore[method-assign]
    driven = Driven(worker)
    gc.collect()
    gc.disable()
    try:
        driven.add("a", words=[])
        if how == "cancelled":
            driven.until(lambda: driven.engine.busy)
            driven.engine.cancel("a")
        driven.until(lambda: driven.ends() and driven.engine.step_started is None)
        driven.until(lambda: held[0]() is None)
    finally:
        gc.enable()
