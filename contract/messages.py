"""What travels between the rooms: requests, tasks, events, file references. Frozen, and JSON on every wire.

    client ──Request──▶ ResultQueue ──Task──▶ WorkQueue ──▶ worker process
                             ▲                                   │
                             └──────────────Event────────────────┘

Nothing here is ever pickled: a worker reads strangers' media, so what it sends back is parsed, not executed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, Self, TypeGuard

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import PydanticCustomError, core_schema

Item = tuple[int, ...]
"""Which element of a fan-out: () for none, (3,) for the fourth of a list, (3, 0) when nested."""

Kind = Literal["started", "progress", "partial", "audio", "checkpoint", "made", "done", "failed", "lost"]

LOCAL_OWNER = "local"
"""The owner of everything while there are no API keys."""

MAX_EVENT_BYTES = 64 * 1024
"""Most bytes of an event's data; a larger result is written beside the ledger and travels as a blob."""

BLOB = "$blob"
"""Key of a blob's reference, which stands in the place of its JSON: ``{"$blob": name, "bytes": size}``."""

BLOB_NAME = re.compile(r"[0-9a-f]{32}\.(json|bin)")
_LIKE_BLOB = re.compile(r"\$+blob")

FILE_ID = re.compile(r"file_[0-9a-f]{32}")


def is_blob(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value is the reference to a blob. Its name then is that of a file, and no path."""
    return (
        isinstance(value, dict)
        and value.keys() == {BLOB, "bytes"}
        and isinstance(value["bytes"], int)
        and BLOB_NAME.fullmatch(str(value[BLOB])) is not None
    )


def escaped(value: Any) -> Any:
    """What a client wrote, so that nothing of it is taken for the reference to a blob: `$blob` becomes `$$blob`."""
    if isinstance(value, dict):
        return {f"${key}" if _LIKE_BLOB.fullmatch(key) else key: escaped(part) for key, part in value.items()}
    return [escaped(part) for part in value] if isinstance(value, (list, tuple)) else value


def filled(value: Any, content: Callable[[str], Any]) -> Any:
    """A parameter as its worker sees it: blobs as their content, and what clients wrote as they wrote it.

    content: gives that of a blob, by its name.
    """
    if is_blob(value):
        return content(value[BLOB])
    if isinstance(value, dict):
        return {
            key[1:] if key[:2] == "$$" and _LIKE_BLOB.fullmatch(key) else key: filled(part, content)
            for key, part in value.items()
        }
    return [filled(part, content) for part in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True, slots=True)
class BlobRef:
    """A value that may be large: a parameter of a worker, which reads it with `Context.open` when it wants it.

    name: of the blob in which the value lies, a file of so many bytes; None where it came along, as `inline`.
    """

    name: str | None
    size: int = 0
    inline: Any = dataclasses.field(default=None, repr=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """With a binder in the context, a client's: any value, which came along. Inside the server also a reference."""

        def validate(value: Any, info: ValidationInfo) -> BlobRef:
            if isinstance(value, BlobRef):
                return value
            if is_blob(value) and (info.context or {}).get("bind") is None:
                return cls(value[BLOB], value["bytes"])
            return cls(None, inline=value)

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda ref: ref.inline if ref.name is None else {BLOB: ref.name, "bytes": ref.size}
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"description": "Any JSON."}


@dataclasses.dataclass(frozen=True, slots=True)
class FileRef:
    """A file that a task may read; `storage.files` alone turns it into a path.

    kind: ``path`` (resolved, under the media roots), ``upload`` (a file_id) or ``made`` (written by a worker into one
    of the server's own folders).
    """

    kind: Literal["path", "upload", "made"]
    value: str
    name: str = ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """With a binder in the context, a client's: a string or bytes, which the binder looks at, and nothing else.

        Inside the server ``{"$file": {…}}``, or the path of a file that a worker made, as its result names it.
        """

        def validate(value: Any, info: ValidationInfo) -> FileRef:
            bind: Callable[[str | bytes], FileRef] | None = (info.context or {}).get("bind")
            if bind is not None:
                if isinstance(value, (str, bytes)):
                    return bind(value)
                raise PydanticCustomError("file", "should be a path, a file_id or binary content")
            if isinstance(value, FileRef):
                return value
            if isinstance(value, dict) and value.keys() == {"$file"}:
                return cls(**value["$file"])
            if isinstance(value, str):
                return cls("made", value, value.rpartition("/")[2])
            raise PydanticCustomError("file", "should be a file reference")

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda ref: {"$file": {"kind": ref.kind, "value": ref.value, "name": ref.name}}
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "description": "A path under the media roots, a file_id, or binary content."}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One ask. `id` is the client's own, returned untouched; `key` its idempotency key.

    client, owner, limited_as: as `Identity` has them.
    """

    id: Any
    client: str
    owner: str
    type: str
    params: dict[str, Any]
    key: str | None = None
    warnings: tuple[str, ...] = ()
    limited_as: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One call of one worker. `attempt` is the fence: only events that carry the latest one count.

    client, owner: whose job it is, and whose the files and voices are that it reads and makes.
    queued_as: whose turn it takes among the tasks that wait.
    checkpoint, finished: what an earlier attempt left: its last checkpoint and, by index, the data of its partials, or
    ``{"start", "end"}`` of its audio.
    alone: run while the process holds nothing else, since this task may be what killed it.
    live: its client's recording grows while it runs, so that it waits most of the time; ended: until now, when it is
    whole.
    after: seconds to wait before it is handed out, since what failed the last time may pass.
    """

    job: str
    stage: str
    item: Item
    worker: str
    params: dict[str, Any]
    client: str
    owner: str = LOCAL_OWNER
    attempt: int = 1
    priority: int = 0
    alone: bool = False
    live: bool = False
    ended: bool = False
    after: float = 0.0
    checkpoint: Any = None
    finished: tuple[Any, ...] = ()
    queued_as: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """What happened to a task. The last one of an attempt is `done`, `failed` or `lost` (its process went away).

    data, by kind: started: the process that holds it · progress: ``{"fraction", "eta"}`` · partial, checkpoint, done:
    the worker's own · audio: ``{"start", "end", "sample_rate", "audio"}``, the samples from start to end (excluded) of
    the whole, 16-bit little-endian mono in base64 · made: ``{"path", "name", "bytes"}`` of a file that is now the
    owner's · failed: `errors.as_failure` · lost: ``{"counted": bool, "reason": str}``, counted when the task may have
    been the cause.
    """

    job: str
    stage: str
    item: Item
    kind: Kind
    attempt: int
    data: Any = None
    index: int | None = None

    @classmethod
    def of(cls, task: Task, kind: Kind, data: Any = None, index: int | None = None) -> Self:
        return cls(task.job, task.stage, task.item, kind, task.attempt, data, index)
