"""A job's whole life as a pure function: no I/O, no clock, no waiting, so that any history can be replayed in a test.

    begin(job) ─▶ Step(job, tasks to submit, what the client is told)
    advance(job, event) ─▶ Step          restart(job) ─▶ Step          finish(job, state, failure) ─▶ Step

Rules:
- A run is one stage for one item. It is `queued` once its references are there, and ends `done`, `failed` or `skipped`.
- Only events of a run's current attempt count; a late event of an older attempt, of an ended run or of an ended job
  changes nothing: `advance` then returns the very same job (the fence).
- A lost attempt is tried again, alone and from its checkpoint, until its error's `tries` are used up. An attempt that
  was not to blame (`counted` false) is tried again freely.
- `seq` counts 1, 2, 3 … over what a client must not miss: partials, audio and the one final answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

import orjson

from contract.errors import ERRORS, Internal, ServiceError, WorkerDied
from contract.identity import whose
from contract.messages import Event, Item, Request, Task
from pipeline.plans import Plan, Stage
from pipeline.references import Broken, Key, Results, Run, Waiting


class State(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED)


STATUS = {State.COMPLETED: "success", State.FAILED: "error", State.CANCELLED: "cancelled"}


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A request on its way. version: one more with each change, for compare-and-swap. Times: seconds since 1970."""

    id: str
    request: Request
    plan: Plan
    created_at: float
    deadline: float
    state: State = State.PENDING
    version: int = 0
    seq: int = 0
    priority: int = 0
    runs: Mapping[Key, Run] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Out:
    """One thing that the client is told: its event's name, its `seq` (None: not kept) and its body."""

    kind: Literal["progress", "partial", "audio", "final"]
    seq: int | None
    body: dict[str, Any]
    stage: str = ""
    item: Item = ()
    index: int | None = None

    @cached_property
    def text(self) -> bytes:
        """Its body as JSON, written once: for the ledger, and for every connection that hears it."""
        return orjson.dumps(self.body)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What a change amounts to.

    changed: the runs that the ledger has to write. made: files that now belong to the owner.
    """

    job: Job
    tasks: tuple[Task, ...] = ()
    outs: tuple[Out, ...] = ()
    changed: tuple[Key, ...] = ()
    made: tuple[dict[str, Any], ...] = ()


def begin(job: Job) -> Step:
    """The first step: the tasks that depend on nothing but the request."""
    return _Change(job).settle()


def advance(job: Job, event: Event) -> Step:
    """What an event of a worker changes; the same job, and nothing else, when it comes too late to count."""
    run = job.runs.get((event.stage, event.item))
    if job.state.ended or run is None or run.settled or event.attempt != run.attempt:
        return Step(job)
    return _RULES[event.kind](_Change(job), event, run)


def restart(job: Job) -> Step:
    """After a restart of the server: every run that was under way is queued again, as a new attempt, not counted."""
    change = _Change(job)
    for key, run in job.runs.items():
        if not run.settled:
            change.requeue(key, run, counted=False)
    return change.settle()


def finish(job: Job, state: State, failure: dict[str, Any] | None = None) -> Step:
    """End a job from outside: cancelled, or failed by its deadline. Nothing happens to one that has ended."""
    return Step(job) if job.state.ended else _Change(job).end(state, failure or {})


class _Change:
    """One step being worked out. Collects, and gives the frozen `Step` at the end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.runs = dict(job.runs)
        self.results = Results(job.plan, job.request, self.runs)
        self.state = job.state
        self.seq = job.seq
        self.tasks: list[Task] = []
        self.outs: list[Out] = []
        self.changed: dict[Key, None] = {}
        self.made: tuple[dict[str, Any], ...] = ()

    def step(self) -> Step:
        job = dataclasses.replace(
            self.job, runs=self.runs, state=self.state, seq=self.seq, version=self.job.version + 1
        )
        return Step(job, tuple(self.tasks), tuple(self.outs), tuple(self.changed), self.made)

    def set(self, key: Key, run: Run) -> None:
        self.runs[key] = run
        self.changed[key] = None

    def tell(
        self, kind: Literal["partial", "audio", "final"], key: Key, body: dict[str, Any], index: int | None
    ) -> None:
        self.seq += 1
        self.outs.append(Out(kind, self.seq, {**self._address(), "seq": self.seq, **body}, *key, index))

    def hint(self, event: Event) -> None:
        place = {"stage": event.stage, "item": shown(event.item)}
        self.outs.append(Out("progress", None, {**self._address(), **place, **event.data}))

    def _address(self) -> dict[str, Any]:
        return {"job_id": self.job.id, "id": self.job.request.id}

    def requeue(self, key: Key, run: Run, counted: bool) -> None:
        deaths = run.deaths + counted
        self.set(key, dataclasses.replace(run, attempt=run.attempt + 1, deaths=deaths))
        stage = self.job.plan.stage(key[0])
        self._submit(key, self.results.resolve(stage.params, key[1], stage))

    def _submit(self, key: Key, params: dict[str, Any]) -> None:
        stage, run = self.job.plan.stage(key[0]), self.runs[key]
        task = Task(
            job=self.job.id,
            stage=stage.name,
            item=key[1],
            worker=stage.worker,
            params=params,
            client=self.job.request.client,
            owner=self.job.request.owner,
            queued_as=whose(self.job.request).name,
            attempt=run.attempt,
            priority=self.job.priority,
            alone=run.deaths > 0 and not stage.live,  # alone, a conversation would hold up everybody for its length
            live=stage.live,
            checkpoint=run.checkpoint,
        )
        self.tasks.append(task)

    def end(self, state: State, body: dict[str, Any]) -> Step:
        """The one final answer."""
        self.state = state
        self.tasks.clear()
        request = self.job.request
        extra = {"warnings": list(request.warnings)} if request.warnings else {}
        self.tell("final", ("", ()), {"type": request.type, "status": STATUS[state], **body, **extra}, None)
        return self.step()

    def settle(self) -> Step:
        """Queue every run whose references are there; end the job when nothing is left."""
        while self._queue_ready():  # a run that failed or was skipped at once may set others free
            continue
        failure = self._fatal()
        if failure is not None:
            return self.end(State.FAILED, failure)
        if self.job.plan.each is not None:
            self._tell_elements()
        if not all(self.results.settled(stage) for stage in self.job.plan.stages):
            return self.step()
        try:
            return self.end(State.COMPLETED, self.results.answer())
        except Broken as broken:
            return self.end(State.FAILED, broken.failure)

    def _queue_ready(self) -> bool:
        freed = False
        for stage in self.job.plan.stages:
            for item in self.results.items(stage)[0]:
                if (stage.name, item) not in self.runs:
                    freed |= self._try(stage, item)
        return freed

    def _try(self, stage: Stage, item: Item) -> bool:
        """Queue, skip or fail one run; True when it ended at once."""
        key = (stage.name, item)
        try:
            wanted = stage.when is None or self.results.resolve(stage.when, item, stage)
            params: dict[str, Any] = self.results.resolve(stage.params, item, stage) if wanted else {}
        except Waiting:
            return False
        except Broken as broken:
            self.set(key, Run("failed", result=broken.failure))
            return True
        if not wanted:
            self.set(key, Run("skipped"))
            return True
        self.set(key, Run("queued"))
        self._submit(key, params)
        return False

    def _fatal(self) -> dict[str, Any] | None:
        for name, item in self.changed:
            run = self.runs[name, item]
            if run.state == "failed" and self.job.plan.stage(name).on_error == "fail":
                return dict(run.result)
        return None

    def _tell_elements(self) -> None:
        """A partial for each element that this change finished: only those with a changed run can be among them."""
        for index in sorted({item[0] for _, item in self.changed if item}):
            if self.results.element_settled(index):
                place = {"stage": "data", "item": index, "index": index}
                self.tell("partial", ("data", (index,)), {**place, "data": self.results.element(index)}, index)


def shown(item: Item) -> int | list[int] | None:
    """An item as clients see it: null, a number, or a list of numbers when nested."""
    return None if not item else item[0] if len(item) == 1 else list(item)


# What each kind of event does. Every kind has a row.


def _on_started(change: _Change, event: Event, run: Run) -> Step:
    if change.state is State.PROCESSING:
        return Step(change.job)  # the ledger has nothing to learn from it
    change.state = State.PROCESSING
    return change.step()


def _on_progress(change: _Change, event: Event, run: Run) -> Step:
    change.hint(event)
    return dataclasses.replace(change.step(), job=change.job)  # a hint is not a change: nothing to write


def _on_partial(change: _Change, event: Event, run: Run) -> Step:
    key = (event.stage, event.item)
    place = {"stage": event.stage, "item": shown(event.item), "index": event.index}
    change.tell("partial", key, {**place, "data": event.data}, event.index)
    return change.step()


def _on_audio(change: _Change, event: Event, run: Run) -> Step:
    key = (event.stage, event.item)
    place = {"stage": event.stage, "item": shown(event.item), "index": event.index}
    change.tell("audio", key, {**place, **event.data}, event.index)
    return change.step()


def _on_checkpoint(change: _Change, event: Event, run: Run) -> Step:
    change.set((event.stage, event.item), dataclasses.replace(run, checkpoint=event.data))
    return change.step()


def _on_made(change: _Change, event: Event, run: Run) -> Step:
    change.made = (event.data,)
    return change.step()


def _on_done(change: _Change, event: Event, run: Run) -> Step:
    return _ended(change, event, dataclasses.replace(run, state="done", result=event.data, checkpoint=None))


def _on_failed(change: _Change, event: Event, run: Run) -> Step:
    error: type[ServiceError] = ERRORS.get(event.data["error_code"], Internal)
    if run.deaths + 1 < error.tries:
        change.requeue((event.stage, event.item), run, counted=True)
        return change.step()
    return _ended(change, event, dataclasses.replace(run, state="failed", result=event.data, checkpoint=None))


def _on_lost(change: _Change, event: Event, run: Run) -> Step:
    if not event.data["counted"]:
        change.requeue((event.stage, event.item), run, counted=False)
        return change.step()
    died = WorkerDied(
        "The process that worked on this request died each time it was tried; the input may be what kills it.",
        reason=event.data["reason"],
    )
    return _on_failed(change, dataclasses.replace(event, data=died.answer()), run)


def _ended(change: _Change, event: Event, run: Run) -> Step:
    change.set((event.stage, event.item), run)
    return change.settle()


_RULES: dict[str, Callable[[_Change, Event, Run], Step]] = {
    "started": _on_started,
    "progress": _on_progress,
    "partial": _on_partial,
    "audio": _on_audio,
    "checkpoint": _on_checkpoint,
    "made": _on_made,
    "done": _on_done,
    "failed": _on_failed,
    "lost": _on_lost,
}
