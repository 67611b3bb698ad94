"""What a job is, and what a change of it amounts to: frozen data, without a rule."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, NamedTuple

import orjson
from rpds import HashTrieMap

from contract.messages import Item, Request, Task
from pipeline.plans import Plan, Scope
from pipeline.references import Fan, Key, Run

EMPTY: HashTrieMap[Any, Any] = HashTrieMap()


class State(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self is State.COMPLETED or self is State.FAILED or self is State.CANCELLED


STATUS = {State.COMPLETED: "success", State.FAILED: "error", State.CANCELLED: "cancelled"}


class Book(NamedTuple):
    """How far a job has come, counted, so that no event looks through all of its runs. Worked out from the runs.

    kept: runs of an earlier life of the server that were not come to yet. sizes: elements of each known fan-out.
    left: for a stage below an item, how many of the items right below have not ended; for "" below an element of the
    answer, how many stages have not. opened: the values of blobs. unread: what waits for a blob to be read.
    due: the attempts that were under way when the server started: as their runs are come to, they are handed out again.
    resuming: until all of `kept` was come to, and all blobs are read. fresh: elements of the answer in which something
    has ended since; the others were told in the earlier life.
    waits: the runs that wait for a signal. active: how many runs are queued. stages: how many have not ended.
    """

    kept: HashTrieMap[Key, Run] = EMPTY
    sizes: HashTrieMap[Fan, int] = EMPTY
    left: HashTrieMap[Key, int] = EMPTY
    opened: HashTrieMap[str, Any] = EMPTY
    unread: HashTrieMap[str, tuple[Todo, ...]] = EMPTY
    resuming: bool = False
    fresh: HashTrieMap[int, None] = EMPTY
    waits: HashTrieMap[Key, None] = EMPTY
    active: int = 0
    stages: int = 0
    due: HashTrieMap[Key, int] = EMPTY


class Todo(NamedTuple):
    """Something to be looked at when what it waited for has happened.

    A `fan` is to be counted, a `run` begun, a `task` handed out again (after so many seconds), an `element` of the
    answer told.
    """

    what: Literal["fan", "run", "task", "element"]
    key: Key = ("", ())
    scope: Scope = ()
    after: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A request on its way. version: one more with each change, for compare-and-swap. Times: seconds since 1970.

    waiting_for, waiting_since: the signal that it waits for, and since when it has waited for nothing else.
    runs: each stage for each item, as far as they have begun.
    """

    id: str
    request: Request
    plan: Plan
    created_at: float
    deadline: float
    state: State = State.PENDING
    version: int = 0
    seq: int = 0
    priority: int = 0
    runs: HashTrieMap[Key, Run] = EMPTY
    waiting_for: str | None = None
    waiting_since: float | None = None
    book: Book = dataclasses.field(default_factory=Book)

    def run(self, key: Key) -> Run | None:
        """A run as the ledger has it, even if it was not come to since the server started."""
        return self.runs.get(key) or self.book.kept.get(key)


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

    changed: the runs that the ledger has to write. made: files that now belong to the owner. reads: blobs whose values
    the job needs, by `opened`. whole: the recording that a task follows has ended.
    """

    job: Job
    tasks: tuple[Task, ...] = ()
    outs: tuple[Out, ...] = ()
    changed: tuple[Key, ...] = ()
    made: tuple[dict[str, Any], ...] = ()
    reads: tuple[str, ...] = ()
    whole: bool = False
