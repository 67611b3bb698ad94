"""The durable truth as an interface: what every ledger can do, said once, for SQLite and whatever comes beside it.

    accept ─▶ a new job          advance ─▶ its next state, by compare-and-swap on its version
    told, answer, finished ◀── what its client was told          keep, file, drop ─▶ files of owners
    unfinished ◀── what a start goes on with          expired, forget ─▶ what the retention is over for

Writes keep their order. One that has been answered has reached the disk; those that wait together may share a commit.
All methods belong to the event loop. A thread asks by `asyncio.run_coroutine_threadsafe`.

Errors: `Conflict` where the write contradicts what the ledger has; `DiskFull` or `Internal` where the disk cannot be
written now, for the writes that say so (the others wait until it can); `ReadFailed` from every read.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any

from contract.identity import Whose
from contract.messages import Item
from storage.records import Change, EventRecord, Expired, FileRecord, JobRecord, Known, Place, StoredJob

PAGE_BYTES = 256 * 1024
"""A page of events has about so many bytes. A slow reader costs as much while it takes them."""


class Conflict(Exception):
    """The job was changed by somebody else, the key exists already, or what is to be dropped is not there."""


class ReadFailed(Exception):
    """The ledger could not be read; its cause says why."""


class Unusable(Exception):
    """The ledger is not one that this program can work with; the message says what to do."""


Done = Callable[[Exception | None], None]
"""Called on the event loop: with None when the write has reached the disk, else with what was wrong with it."""


class Ledger(ABC):
    """What lasts of jobs and files."""

    # Jobs.

    @abstractmethod
    async def accept(self, change: Change) -> None:
        """A new job with its first step. Raises: Conflict where its client has its key already, DiskFull, Internal."""

    @abstractmethod
    def advance(self, change: Change, version: int, done: Done, *, soon: bool = True) -> None:
        """A job's step from `version` to the version of `change`, all of it or nothing.

        soon: nobody waits for one that is not; it may share the commit of a later one. done: told the `Conflict` where
        the job has another version. A full disk makes the write wait.
        """

    async def advanced(self, change: Change, version: int) -> None:
        """The same, for who waits. Raises: Conflict."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            if written.done():
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        self.advance(change, version, done)
        await written

    @abstractmethod
    async def unfinished(self) -> list[StoredJob]:
        """Every job that has not ended, oldest first. One whose rows are damaged keeps no other from being read."""

    @abstractmethod
    async def load(self, job_id: str) -> StoredJob | None:
        """A job with its runs. Raises: ReadFailed where its rows are damaged, too."""

    @abstractmethod
    async def job(self, job_id: str) -> JobRecord | None:
        """A job without its params and warnings, which may be large."""

    @abstractmethod
    async def job_by_key(self, client: str, key: str) -> str | None:
        """The id of the job that a client gave this idempotency key."""

    @abstractmethod
    async def jobs(self, whose: Whose, limit: int, after: Place | None = None) -> list[JobRecord]:
        """Their jobs, newest first, without params and warnings: the first ones, or those behind a place."""

    @abstractmethod
    async def seqs(self, whose: Whose, job_ids: Collection[str]) -> dict[str, int]:
        """The last `seq` of those of these jobs that are theirs."""

    # What clients were told.

    @abstractmethod
    async def told(self, job_id: str, after: int, enough: int = PAGE_BYTES) -> list[EventRecord]:
        """What was told after a `seq`, in order: a page, which ends with the event that makes `enough` bytes."""

    @abstractmethod
    async def answer(self, job_id: str) -> bytes | None:
        """The body of a job's final event, as JSON; None where it has not ended."""

    @abstractmethod
    async def finished(self, job_id: str, stage: str, item: Item) -> list[Any]:
        """What one run has told, by index, as `Task.finished` has it; a later one of an index replaces the earlier."""

    # Files.

    @abstractmethod
    async def keep(self, file: FileRecord) -> None:
        """A file of an owner. A path that is the owner's already keeps its id, one that is another's stays theirs.

        Raises: Conflict where the id is taken, DiskFull, Internal.
        """

    @abstractmethod
    async def file(self, file_id: str) -> FileRecord | None:
        """A file by its id."""

    @abstractmethod
    async def file_at(self, path: str) -> FileRecord | None:
        """A file by where it lies."""

    @abstractmethod
    async def drop(self, file_id: str) -> None:
        """Forget a file. Raises: Conflict where it is not there, DiskFull, Internal."""

    # What is over, and the ledger itself.

    @abstractmethod
    async def known(self) -> Known:
        """Names of all blobs, ids of all files and unfinished jobs: what lies beside them on the disk is nobody's."""

    @abstractmethod
    async def expired(self, before: float, limit: int) -> Expired:
        """Jobs that ended, and files that came, before a time in seconds since 1970: at most `limit` of each."""

    @abstractmethod
    async def next_due(self, after: float) -> float | None:
        """The earliest time, from `after` on, at which a job ended or a file came; None where there is none."""

    @abstractmethod
    async def seen(self) -> float | None:
        """The latest time that this ledger was told of; None where it is new."""

    @abstractmethod
    def see(self, now: float) -> None:
        """Keep that it is now so late, when something else is written."""

    @abstractmethod
    async def move(self, ages: float, deadlines: float, now: float) -> None:
        """Add `ages` to all times of jobs and files, and `deadlines` to those of unfinished jobs that do not wait.

        now: what the clock says that has jumped so far, in seconds since 1970.
        """

    @abstractmethod
    async def forget(self, old: Expired) -> None:
        """Forget jobs with all that belongs to them, and files. What lies on the disk is the caller's to delete."""

    @property
    @abstractmethod
    def trouble(self) -> str | None:
        """What keeps all writes from the ledger, for its operator; None while nothing does."""

    @property
    @abstractmethod
    def commits(self) -> int:
        """How many transactions there were, for metrics."""

    @abstractmethod
    async def settled(self) -> None:
        """Return when all that was written before has been answered. Raises: DiskFull, Internal."""

    @abstractmethod
    async def close(self) -> None:
        """Commit what waits, then close."""
