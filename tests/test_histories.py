"""Random plans and random histories: restarts, lost writes, late events, pauses and large results change no answer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from rpds import HashTrieMap

from contract.messages import Event, Item, Request, Task
from pipeline.job import Job, State, Step, advance, begin, loaded, opened, restart, signal, waiting_name
from pipeline.plans import Plan, Retry, Stage
from pipeline.references import Key, Run
from pipeline.replay import Cause

Params = create_model("Params", items=(list[dict[str, Any]], ...), flag=(bool, True))
ELEMENTS: list[dict[str, Any]] = [
    {"name": "a", "flag": True, "parts": [{"name": "aa", "flag": False}, {"name": "ab", "flag": True}]},
    {"name": "b", "flag": False, "parts": []},
    {"name": "c", "flag": True, "parts": [{"name": "ca", "flag": True}]},
]
REFUSED = {"error_code": "NO_AUDIO", "message": "There is nothing to hear."}
BUSY = {"error_code": "RATE_LIMITED", "message": "Later.", "details": {"retry": True}}
TRIES = Retry(frozenset({"RATE_LIMITED"}), tries=3)


class Said(BaseModel):
    """What a wait is told."""


def glue(**given: Any) -> dict[str, Any]:
    """Of what it was given, something that depends on all of it."""
    return {"name": repr(given), "flag": bool(len(repr(given)) % 2), "parts": ELEMENTS[: len(repr(given)) % 3]}


# Plans.


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    stages: list[Stage] = []
    wanted = draw(st.integers(2, 6))
    for number in range(wanted):
        for _ in range(4):  # most of what is drawn holds together
            stage = draw(drawn_stage(f"s{number}", tuple(stages)))
            try:
                Plan("p", Params, (*stages, stage))
            except ValueError:
                continue
            stages.append(stage)
            break
    if not stages:
        stages = [Stage("s", "w", "$request")]
    plan = Plan("p", Params, tuple(stages))
    outermost = {scope[0] for scope in plan.scopes.values() if scope}
    each = {name: f"${name}" for name, scope in plan.scopes.items() if len(scope) == 1} if len(outermost) == 1 else None
    deep = {name: f"${name}*" for name, scope in plan.scopes.items() if scope}
    return dataclasses.replace(
        plan, answer={**deep, **{n: f"${n}" for n, scope in plan.scopes.items() if not scope}}, each=each or None
    )


@st.composite
def drawn_stage(draw: st.DrawFn, name: str, before: tuple[Stage, ...]) -> Stage:
    heads = [stage.name for stage in before]
    lists = ["$request.items", "$item.parts", *(f"${h}.parts" for h in heads), *(f"${h}*" for h in heads)]
    values = ["$item", "$item.name", *(f"${h}" for h in heads), *(f"${h}.name" for h in heads)]
    values += [f"${h}*.name" for h in heads]
    flags = ["$request.flag", "$item.flag", *(f"${h}.flag" for h in heads)]
    over: Any = draw(st.one_of(st.none(), st.sampled_from(lists)))
    if over is not None and over != "$item.parts" and draw(st.integers(0, 3)) == 0:
        over = {"one": over, "other": over}
    params = {f"p{n}": ref for n, ref in enumerate(draw(st.lists(st.sampled_from(values), max_size=3)))}
    kind = draw(st.sampled_from(["worker", "worker", "worker", "function", "wait"]))
    return Stage(
        name,
        {"worker": "w", "function": glue, "wait": ""}[kind],  # type: ignore[arg-type]
        params,
        over=over,
        when=draw(st.one_of(st.none(), st.none(), st.sampled_from(flags))),
        on_error=draw(st.sampled_from(["keep", "keep", "keep", "fail"])),
        wait=Said if kind == "wait" else None,
        retry=TRIES if draw(st.booleans()) else None,
    )


# The world around a job.


@dataclasses.dataclass(eq=False)
class World:
    """A job with its ledger, its workers, who answers its waits, and the disk that large results lie on.

    large: (stage, item) → whether its result is a blob, whole or its list. failing: those that fail.
    """

    plan: Plan
    large: Any
    failing: Any
    job: Job = dataclasses.field(init=False)
    ledger: dict[Key, Run] = dataclasses.field(default_factory=dict)
    record: Job = dataclasses.field(init=False)
    tasks: list[Task] = dataclasses.field(default_factory=list)
    reads: list[str] = dataclasses.field(default_factory=list)
    old: list[Event] = dataclasses.field(default_factory=list)
    blobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    handed: Counter[tuple[Key, int]] = dataclasses.field(default_factory=Counter)
    told: list[Any] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        request = Request(1, "c", "local", "p", {"items": ELEMENTS, "flag": True})
        self.act(begin(Job("job", request, self.plan, 0.0, 9.0)))

    def play(self, cause: Cause) -> None:
        step = cause(self.job)
        if step.job is not self.job:
            self.act(step)

    def act(self, step: Step) -> None:
        """It is written, and then it is done what it says."""
        self.job = self.record = step.job
        for key in step.changed:
            run = step.job.run(key)
            assert run is not None
            self.ledger[key] = run
        for task in step.tasks:
            self.handed[(task.stage, task.item), task.attempt] += 1
        self.tasks += step.tasks
        self.reads += step.reads
        self.told += [out for out in step.outs if out.seq is not None]

    def reloaded(self) -> Job:
        return dataclasses.replace(self.record, runs=HashTrieMap(self.ledger), book=type(self.record.book)())

    def restart(self) -> None:
        """The server is another process: nothing is left but the ledger, and what workers of before still say."""
        self.old += [Event.of(task, "done", self.result(task)) for task in self.tasks]
        self.tasks, self.reads = [], []
        self.job = self.reloaded()
        self.play(restart)

    def conflict(self, cause: Cause) -> None:
        """What a cause makes is not written: the job is loaded, and the cause played on that."""
        due = self.job.book.due
        self.job = self.reloaded()
        self.play(partial(loaded, due=due))
        self.reads = []
        for blob in self.looked_into():
            self.play(partial(opened, blob=blob, value=self.blobs[blob]))
        self.reads = []
        self.play(cause)

    def looked_into(self) -> Any:
        while unread := list(self.job.book.unread):
            yield unread[0]

    def result(self, task: Task) -> Any:
        value = glue(stage=task.stage, item=task.item, params=task.params)
        large = self.large(task.stage, task.item)
        if not large:
            return value
        content = value if large == 1 else value["parts"]
        name = f"{hashlib.md5(repr(content).encode()).hexdigest()}.json"
        self.blobs[name] = content
        blob = {"$blob": name, "bytes": 100_000}
        return blob if large == 1 else {**value, "parts": blob}

    def end(self, task: Task) -> Cause:
        failing = self.failing(task.stage, task.item)
        event = Event.of(task, *(("failed", REFUSED) if failing else ("done", self.result(task))))
        self.tasks.remove(task)
        self.old.append(event)
        return partial(advance, event=event)

    def waits(self) -> list[Key]:
        """What the ledger says is waited for, whether or not the job has come to it."""
        return sorted(key for key, run in self.ledger.items() if run.state == "waiting")

    def causes(self) -> list[Any]:
        """What can happen now, in the order in which it happens where nothing is disturbed."""
        found: list[Any] = [partial(self.open, blob) for blob in self.reads]
        found += [partial(self.end, task) for task in self.tasks]
        return found + [partial(self.tell, key) for key in self.waits()]

    def open(self, blob: str) -> Cause:
        self.reads.remove(blob)
        return partial(opened, blob=blob, value=self.blobs[blob])

    def tell(self, key: Key) -> Cause:
        said = glue(stage=key[0], item=key[1])
        return partial(signal, name=waiting_name(key), data=said)

    def to_its_end(self) -> Any:
        for _ in range(2000):
            if self.job.state.ended:
                [final] = [out for out in self.told if out.kind == "final"]
                return {key: value for key, value in final.body.items() if key != "seq"}
            found = self.causes()
            assert found, f"it hangs: {self.plan.stages} {dict(self.job.runs)} {self.job.book}"
            self.play(found[0]())
        raise AssertionError("it never ends")


def chosen(seed: int, portion: int, outcomes: int) -> Any:
    """For (stage, item) one of so many outcomes, 0 unless it is one in `portion`; the same each time."""

    def choose(stage: str, item: Item) -> int:
        number = sum(map(ord, repr((seed, stage, item)))) * 2654435761 % 2**32
        return number // 7 % outcomes + 1 if seed and number % portion == 0 else 0

    return choose


def disturb(world: World, data: st.DataObject) -> None:
    """Something happens that is not on the way."""
    running = [task for task in world.tasks if not world.failing(task.stage, task.item)]
    kind = data.draw(st.sampled_from(["restart", "conflict", "late", "lost", "busy"]))
    if kind == "restart":
        world.restart()
    elif kind == "conflict" and (found := world.causes()):
        world.conflict(found[data.draw(st.integers(0, len(found) - 1))]())
    elif kind == "late" and world.old:
        world.play(partial(advance, event=world.old[data.draw(st.integers(0, len(world.old) - 1))]))
    elif kind in ("lost", "busy") and running:
        task = running[data.draw(st.integers(0, len(running) - 1))]
        run = world.job.runs[task.stage, task.item]
        may_pass = world.plan.by_name[task.stage].retry is not None and run.retries < TRIES.tries - 1
        lost = {"counted": run.deaths == 0, "reason": "r"}
        event = Event.of(task, "failed", BUSY) if kind == "busy" and may_pass else Event.of(task, "lost", lost)
        world.tasks.remove(task)
        world.play(partial(advance, event=event))


@settings(max_examples=200, deadline=None)
@given(plans(), st.integers(0, 50), st.integers(0, 50), st.data())
def test_no_history_changes_an_answer(plan: Plan, large: int, failing: int, data: st.DataObject) -> None:
    """However a job was disturbed, each attempt is handed out once, each element told once, and nothing hangs."""
    calm, world = (World(plan, chosen(large, 2, 2), chosen(failing, 5, 1)) for _ in range(2))
    for _ in range(60):
        if world.job.state.ended:
            break
        found = world.causes()
        if not found or data.draw(st.integers(0, 2)) == 0:
            disturb(world, data)
        else:
            world.play(found[data.draw(st.integers(0, len(found) - 1))]())
    assert world.to_its_end() == calm.to_its_end()
    assert set(world.handed.values()) <= {1}, "each attempt is handed out once"
    seqs = [out.seq for out in world.told]
    assert seqs == list(range(1, len(seqs) + 1))
    elements = Counter(out.index for out in world.told if out.stage == "data")
    assert set(elements.values()) <= {1}, "an element is told once"
    queued = [key for key, run in world.job.runs.items() if run.state == "queued"]
    assert not queued or world.job.state is State.FAILED, "nothing is left behind"
