"""What the server and a worker's process say to each other on the pipe between them.

    server ──Do, More, Cancel, Leave──▶ process
    server ◀──Loaded, Ready, Unavailable, Leaving, Events, Info, Grown, Beat── process

On the wire a message is a frame (`framing`) with ``[name, fields]``. What comes is parsed and checked, field by field,
and never executed: a worker's process reads strangers' media, and may by then say what a stranger wants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from contract.framing import Garbled, Unpacker, pack
from contract.messages import Event, Task

__all__ = ["FromWorker", "Garbled", "Reader", "ToWorker", "encode", "from_worker", "to_worker"]

MAX_FROM_WORKER = 64 * 1024 * 1024
"""Bytes of a frame from a process. Honest ones have a few events of `MAX_EVENT_BYTES` for each task that it holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Do:
    """Run a task."""

    task: Task


@dataclasses.dataclass(frozen=True, slots=True)
class More:
    """The recording that a job's tasks follow has grown. ended: it is whole."""

    job: str
    ended: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the tasks of a job."""

    job: str


@dataclasses.dataclass(frozen=True, slots=True)
class Leave:
    """End. The process holds no task."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """The model was loaded; the worker's example follows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """Tasks may come. facts: for /health."""

    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """`errors.as_failure`, as it stands on the wire."""

    error_code: str
    message: str
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        details = {"details": self.details} if self.details else {}
        return {"error_code": self.error_code, "message": self.message, **details}


@dataclasses.dataclass(frozen=True, slots=True)
class Unavailable:
    """The model cannot be had; the process ends."""

    failure: Failure


@dataclasses.dataclass(frozen=True, slots=True)
class Leaving:
    """The process ends by itself, and takes no more tasks."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Events:
    """What happened to the tasks that the process holds, in order."""

    events: tuple[Event, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Info:
    """Facts for /health that have changed."""

    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Grown:
    """The process holds far more memory than it needs, and should be replaced."""


@dataclasses.dataclass(frozen=True, slots=True)
class Beat:
    """The process lives. step: seconds that the step in hand has taken so far; 0 between two steps."""

    step: float


ToWorker = Do | More | Cancel | Leave
FromWorker = Loaded | Ready | Unavailable | Leaving | Events | Info | Grown | Beat
Message = TypeVar("Message", ToWorker, FromWorker)

_NAMES: dict[type, str] = {
    kind: kind.__name__.lower()
    for kind in (Do, More, Cancel, Leave, Loaded, Ready, Unavailable, Leaving, Events, Info, Grown, Beat)
}
_TO_WORKER: dict[str, TypeAdapter[Any]] = {_NAMES[kind]: TypeAdapter(kind) for kind in (Do, More, Cancel, Leave)}
_FROM_WORKER: dict[str, TypeAdapter[Any]] = {
    _NAMES[kind]: TypeAdapter(kind) for kind in (Loaded, Ready, Unavailable, Leaving, Events, Info, Grown, Beat)
}


def encode(message: ToWorker | FromWorker) -> bytes:
    """The frame of a message."""
    return pack([_NAMES[type(message)], message])


class Reader(Generic[Message]):
    """Puts the messages of one direction together again from whatever pieces the pipe gives."""

    def __init__(self, kinds: Mapping[str, TypeAdapter[Any]], most: int | None = None) -> None:
        self._kinds = kinds
        self._unpacker = Unpacker(most)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Every message that `data` completes. Raises: Garbled, after which nothing more can be read."""
        for frame in self._unpacker.feed(data):
            try:
                name, fields = frame
                yield self._kinds[name].validate_python(fields)
            except (TypeError, ValueError, KeyError) as exc:  # pydantic's ValidationError is a ValueError
                fields_wrong = f": {exc.error_count()} wrong fields" if isinstance(exc, ValidationError) else ""
                raise Garbled(f"a frame is no message of this pipe{fields_wrong}") from exc


def to_worker() -> Reader[ToWorker]:
    """What a process reads."""
    return Reader(_TO_WORKER)


def from_worker() -> Reader[FromWorker]:
    """What the server reads."""
    return Reader(_FROM_WORKER, MAX_FROM_WORKER)
