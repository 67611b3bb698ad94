"""What the ledger keeps, as records that know nothing of plans: every ledger takes and gives these.

    JobRecord ◀── one for each job         RunRecord ◀── one for each of its runs
    EventRecord ◀── what its client was told, word for word         BlobRecord, FileRecord ◀── what lies on the disk

A `Change` is what one commit writes of one job.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from contract.messages import Item


class Place(NamedTuple):
    """Where a job stands in listings, also when it is no more. created_at: seconds since 1970."""

    created_at: float
    id: str


class JobRecord(NamedTuple):
    """A job. Times: seconds since 1970.

    client_id: the `id` that the client gave it. limited_as: who is limited by it while it is unfinished. plan_version:
    of the plan that it began with. waiting_for, waiting_since: a signal, and since when; None unless it waits for
    nothing else. state: one of `pipeline.job.State`. version: greater with each change, for compare-and-swap. seq: the
    last that was told.
    """

    id: str
    client: str
    owner: str
    limited_as: str
    client_id: Any
    type: str
    plan: str
    plan_version: int
    params: dict[str, Any]
    warnings: tuple[str, ...]
    key: str | None
    priority: int
    created_at: float
    deadline: float
    waiting_for: str | None
    waiting_since: float | None
    finished_at: float | None
    state: str
    version: int
    seq: int


class RunRecord(NamedTuple):
    """One stage of a job for one item. state: one of those of `pipeline.references.Run`.

    deaths: attempts that it may have killed; retries: those that failed elsewhere and were tried again.
    """

    stage: str
    item: Item
    state: str
    attempt: int
    deaths: int
    retries: int
    checkpoint: Any
    result: Any


class EventRecord(NamedTuple):
    """What a client was told. idx: its place among what its run tells. body: JSON."""

    seq: int
    kind: str
    stage: str
    item: Item
    idx: int | None
    body: bytes


class BlobRecord(NamedTuple):
    """A result that lies beside the ledger. name: of its file."""

    name: str
    bytes: int


class FileRecord(NamedTuple):
    """A file that the server keeps for its owner. path: absolute."""

    id: str
    owner: str
    path: str
    name: str
    bytes: int
    created_at: float


class Change(NamedTuple):
    """What one commit writes: the job as it is now, the runs that changed, what its client is told, what it made."""

    job: JobRecord
    runs: tuple[RunRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()
    files: tuple[FileRecord, ...] = ()
    blobs: tuple[BlobRecord, ...] = ()


class StoredJob(NamedTuple):
    """A job with all of its runs, to go on with.

    readable: False where its rows are damaged; then it is what can be read of the job alone.
    """

    job: JobRecord
    runs: tuple[RunRecord, ...]
    readable: bool = True


class Known(NamedTuple):
    """What a ledger knows of: names of blobs, ids of files and of unfinished jobs."""

    blobs: frozenset[str]
    files: frozenset[str]
    jobs: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        """Of the files that it has rows for."""
        return self.blobs | self.files


class Expired(NamedTuple):
    """What the retention is over for: ids of jobs, names of their blobs, paths of files."""

    jobs: tuple[str, ...]
    blobs: tuple[str, ...]
    files: tuple[str, ...]


def new_file_id() -> str:
    """The id of a file that is to be kept."""
    return f"file_{secrets.token_hex(16)}"
