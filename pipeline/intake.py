"""From a message as a client wrote it to a `Request` that a plan accepts: the same for every door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel

from contract.errors import InvalidInput, TooLarge, UnknownType, switched_off
from contract.folders import Folders
from contract.identity import Identity
from contract.messages import FileRef, Request, escaped
from contract.params import Bind, checked
from pipeline.catalog import choose
from pipeline.contents import Contents
from pipeline.plans import Plan
from storage.ledger import Ledger
from storage.records import FileRecord, new_file_id
from storage.space import Space

T = TypeVar("T")

MAX_CONTENT_BYTES = 4 * 1024 * 1024
"""What one message may carry itself, text and binary together."""
MAX_STORED_BYTES = 256 * 1024
"""Of these, what a job keeps in memory and in the ledger: a thousand items of a batch with a path of 200 bytes each."""
MAX_VALUES = 100_000
"""Numbers, texts, objects and lists in one message: a thousand items of a batch have some ten each. Each becomes an
object in memory, many times the size of its text."""
MAX_DEPTH = 64
"""Objects and lists within each other; orjson writes 254 of them and reads more."""
MAX_ID_BYTES = 2048
"""An `id` is repeated on every event, and a thousand of them stand in one listing of jobs."""


class Intake:
    """Reads messages. Files are looked at (never opened) in a thread, since a network disk may hang."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        folders: Folders,
        ledger: Ledger,
        off: Mapping[str, str] | None = None,
        space: Space | None = None,
    ) -> None:
        """off: workers that are switched off, and the setting that does so. space: of the disk."""
        self._plans = plans
        self._off = off or {}
        self.folders = folders
        self._ledger = ledger
        self.space = space or Space(folders.data)

    @asynccontextmanager
    async def read(self, message: Any, who: Identity) -> AsyncIterator[tuple[Request, Plan, tuple[FileRecord, ...]]]:
        """The request, its plan and the files that it brought, for the ledger. They stay unless the block fails.

        Raises: InvalidInput, UnknownType, TooLarge, DiskFull, ModelUnavailable where the type's worker is switched off,
        and what the files of the message give.
        """
        self.space.check()
        raw, plan = self._plan(message)
        key = raw.get("idempotency_key")
        if key is not None and (not isinstance(key, str) or not 1 <= len(key) <= 256):
            raise InvalidInput("'idempotency_key' must be text of 1 to 256 characters.", field="idempotency_key")
        check_stored(raw)
        contents = Contents(self.folders, self._ledger, who)
        params, warnings = await self._parsed(partial(plan.parse, raw), contents)
        if plan.live:
            params["file"] = contents.recording()
        asked = (who.client, who.owner, raw["type"], escaped(params), key, warnings, who.limited_as)
        async with contents.written():
            yield Request(raw.get("id"), *asked), plan, contents.files

    async def _parsed(self, parse: Callable[[Bind], T], contents: Contents) -> T:
        """What a client wrote; in a thread where it names or holds a file."""
        try:
            return parse(_no_file)
        except _FileNamed:
            return await asyncio.to_thread(parse, contents)

    @asynccontextmanager
    async def signalled(self, model: type[BaseModel], data: Any, who: Identity) -> AsyncIterator[dict[str, Any]]:
        """The data of a signal as the job's stages see it. The files that it brought stay unless the block fails.

        Raises: InvalidInput, TooLarge, DiskFull, and what its files give.
        """
        if not isinstance(data, dict):
            raise InvalidInput("The 'data' of this signal must be an object.", field="data")
        check_stored(data)
        contents = Contents(self.folders, self._ledger, who)
        said = await self._parsed(lambda bind: checked(model, data, bind).model_dump(), contents)
        if contents.files:  # without it costs nothing, and its job may end
            self.space.check()
        async with contents.written(), contents.kept():
            yield escaped(said)

    def _plan(self, message: Any) -> tuple[dict[str, Any], Plan]:
        if not isinstance(message, dict):
            raise InvalidInput('A message must be a JSON object such as {"type": "whisp", "file": "talk.mp3"}.')
        if "type" not in message:
            raise InvalidInput(f"A message needs a 'type': one of {self._types()}.", field="type")
        plan = choose(self._plans, message)
        if plan is None:
            raise UnknownType(
                f"This server has no type {str(message['type'])[:80]!r}; it has {self._types()}.", field="type"
            )
        if off := sorted(plan.needs & self._off.keys()):
            raise switched_off(off[0], self._off[off[0]])
        return message, plan

    def _types(self) -> str:
        return ", ".join(sorted(name for name in self._plans if "." not in name))


class _FileNamed(Exception):
    """The message names a file, or holds one."""


def _no_file(value: str | bytes) -> FileRef:
    raise _FileNamed


def new_upload(folders: Folders) -> tuple[str, Path]:
    """A new file_id and the path, not yet there, that belongs to it."""
    file_id = new_file_id()
    folders.uploads.mkdir(parents=True, exist_ok=True)
    return file_id, folders.uploads / file_id


def check_text(text: str | bytes) -> None:
    """Refuse JSON of more than MAX_VALUES values, judged by its commas and brackets. Raises: TooLarge."""
    if len(text) <= MAX_VALUES:
        return
    raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    for part in (raw[: 8 * MAX_VALUES], raw):  # the beginning says enough of most that are made to be dear
        if _count(part, b",[{") > MAX_VALUES and _count(_outside_texts(part), b",[{") > MAX_VALUES:
            raise TooLarge(f"A message may hold {MAX_VALUES} values; send what it asks for in several messages.")


def id_in(text: str) -> Any:
    """The `id` of a message of too many values, where it is a number or a short text; None elsewhere.

    text: the JSON of an event, so that the message's own keys are those within one list and one object.
    """
    raw = text.encode(errors="surrogatepass")
    for start in {raw.find(b'"id":'), raw.rfind(b'"id":')} - {-1}:
        before = _outside_texts(raw[:start])
        within = _count(before, b"[{") - _count(before, b"]}")
        found = _SHORT_ID.match(raw, start)
        if within == 2 and found:
            return orjson.loads(found[1])
    return None


_SHORT_ID = re.compile(rb'"id":\s*(-?\d{1,15}|"[\w .:/-]{0,100}")\s*[,}]')


def _outside_texts(raw: bytes) -> bytes:
    """JSON without its texts. Of very many only the marks between stay, one for each, as separators."""
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _count(bare, b'"') > 4 * MAX_VALUES:
        return bare.translate(bytes.maketrans(b'"', b","))
    return b"".join(bare.split(b'"')[::2])


def _count(raw: bytes, characters: bytes) -> int:
    return len(raw) - len(raw.translate(None, characters))  # one pass, however many there are


def check_message(message: Any) -> None:
    """Refuse a message that cannot be carried, stored and answered.

    Raises: TooLarge when its own text and bytes are too many; InvalidInput when it nests too deep, or its `id` is none.
    """
    if _size(message, MAX_CONTENT_BYTES) > MAX_CONTENT_BYTES:
        raise too_large()
    if isinstance(message, dict) and message.get("id") is not None and client_id(message) is None:
        raise InvalidInput(f"'id' may be any JSON of up to {MAX_ID_BYTES} bytes.", field="id")


def check_stored(message: dict[str, Any]) -> None:
    """Refuse a message whose text is too long to be kept with a job. Raises: TooLarge."""
    if len(orjson.dumps(message, default=lambda content: None)) > MAX_STORED_BYTES:
        limit = MAX_STORED_BYTES // 2**10
        raise TooLarge(f"A message may have {limit} KiB beside its binary content; send several, or upload files.")


def too_large() -> TooLarge:
    """What is said of a message above MAX_CONTENT_BYTES."""
    limit = MAX_CONTENT_BYTES // 2**20
    return TooLarge(f"A message may carry {limit} MiB; upload larger files with POST /files and send their file_id.")


def client_id(message: Any) -> Any:
    """The client's own `id`, as it can be repeated on every answer; None when it cannot."""
    given = message.get("id") if isinstance(message, dict) else None
    try:
        if _size(given, MAX_ID_BYTES) <= MAX_ID_BYTES and len(orjson.dumps(given)) <= MAX_ID_BYTES:
            return given
    except (InvalidInput, TypeError):  # too deep; binary
        return None
    return None


def _size(value: Any, enough: int, depth: int = MAX_DEPTH) -> int:
    """Bytes of text and binary in a JSON value; stops counting soon after `enough`. Raises: InvalidInput."""
    if depth < 0:
        raise InvalidInput(f"A message may have {MAX_DEPTH} objects and lists within each other.")
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (dict, list)):
        total = 8 * len(value)
        for part in value.values() if isinstance(value, dict) else value:
            total += _size(part, enough - total, depth - 1)
            if total > enough:
                break
        if isinstance(value, dict):
            total += sum(map(len, value))
        return total
    return 8
