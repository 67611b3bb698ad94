"""What a job tells while it runs: frozen values, one class for each kind of event of the protocol.

`Progress` is a hint: it has no `seq`, and only the newest one is worth anything. `Partial`, `Audio` and `Final` are the
server's ledger: `seq` counts 1, 2, 3 … over the three of them, and `Final` is the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Item = tuple[int, ...]
"""Which element of the request's list the event is about: () for none, (3,) for the fourth, (3, 0) when nested."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the job is. fraction: 0 to 1, None while unknown; eta: seconds until done, None while unknown."""

    stage: str | None
    item: Item
    fraction: float | None
    eta: float | None


@dataclass(frozen=True, slots=True)
class Partial:
    """A finished piece: a chunk of a transcript, a segment of captions. The same `index` again replaces the earlier."""

    seq: int
    stage: str | None
    item: Item
    index: int
    data: Any


@dataclass(frozen=True, slots=True)
class Audio:
    """A piece of sound; the pieces joined are the whole.

    audio: pcm_s16le, mono, at `sample_rate` Hz; start, end: which samples of the whole these are, `end` excluded.
    """

    seq: int
    index: int
    start: int
    end: int
    sample_rate: int
    audio: bytes


@dataclass(frozen=True, slots=True)
class Final:
    """The job's one final answer, whole, whatever its size was on the wire."""

    seq: int
    status: Literal["success", "error", "cancelled"]
    answer: dict[str, Any]


Event = Progress | Partial | Audio | Final


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """What a job waits for from outside. since: in seconds since 1970."""

    name: str
    since: float


@dataclass(frozen=True, slots=True)
class JobInfo:
    """One row of `jobs()`.

    state: ``pending``, ``processing``, ``waiting``, ``completed``, ``failed`` or ``cancelled``; created_at,
    finished_at: seconds since 1970; fraction: 0 to 1, None while unknown; queue_position: 1 for the next, None once the
    job runs; waiting_for: what `signal` has to give it, None unless it waits.
    """

    job_id: str
    id: Any
    type: str
    state: str
    created_at: float
    finished_at: float | None = None
    fraction: float | None = None
    queue_position: int | None = None
    waiting_for: WaitingFor | None = None


@dataclass(frozen=True, slots=True)
class Voice:
    """One row of `voices()`. duration: of its recording, in seconds; created_at: seconds since 1970."""

    reference_id: str
    name: str | None
    description: str | None
    duration: float
    created_at: float


def event_of(name: str, data: dict[str, Any]) -> Event:
    """The event that arrived as `name` (``progress``, ``partial``, ``audio``, or ``message`` for the final answer)."""
    item = _item(data.get("item"))
    match name:
        case "progress":
            return Progress(data.get("stage"), item, data.get("fraction"), data.get("eta"))
        case "partial":
            return Partial(data["seq"], data.get("stage"), item, data["index"], data["data"])
        case "audio":
            return Audio(data["seq"], data["index"], data["start"], data["end"], data["sample_rate"], data["audio"])
        case _:
            return Final(data["seq"], data["status"], data)


def _item(sent: int | list[int] | None) -> Item:
    """The item's index. On the wire it is null, a number, or a list of numbers when nested."""
    return () if sent is None else (sent,) if isinstance(sent, int) else tuple(sent)


def job_info(row: dict[str, Any]) -> JobInfo:
    """One row of the server's answer to ``jobs``; fields that a newer server adds are left out."""
    known = {name: row[name] for name in JobInfo.__dataclass_fields__ if name in row}
    if awaited := known.pop("waiting_for", None):
        known["waiting_for"] = WaitingFor(awaited["name"], awaited["since"])
    return JobInfo(**known)


def voice_of(row: dict[str, Any]) -> Voice:
    """One row of the server's answer to ``voices``; fields that a newer server adds are left out."""
    return Voice(**{name: row[name] for name in Voice.__dataclass_fields__})
