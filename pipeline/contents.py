"""The files of a message: paths and uploads that it names, and content that it holds.

parse ─▶ bound, in memory ─▶ everything else of the message is good ─▶ written ─▶ accepted, with its rows
                                                                         └─▶ refused after all ─▶ deleted
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from contract import clock
from contract.errors import FileNotFound, InvalidInput, ServiceError
from contract.folders import Folders
from contract.identity import Identity
from contract.messages import FILE_ID, FileRef
from storage.files import bind_path, kept_as
from storage.ledger import Conflict, Ledger
from storage.records import FileRecord, new_file_id

T = TypeVar("T")


class Contents:
    """Turns what a client wrote for a file into a `FileRef`; the message's own content becomes uploads of its owner.

    It is called in a thread, beside the event loop on which it was made.
    """

    def __init__(self, folders: Folders, ledger: Ledger, who: Identity) -> None:
        self._loop = asyncio.get_running_loop()
        self._folders = folders
        self._ledger = ledger
        self._who = who
        self._held: dict[int, tuple[FileRecord, bytes]] = {}

    def __call__(self, value: str | bytes) -> FileRef:
        if isinstance(value, bytes):
            return self._hold(value)
        if FILE_ID.fullmatch(value):
            row = self._ask(self._ledger.file(value))
            if row is None or row.owner != self._who.owner:
                raise FileNotFound(f"There is no upload {value!r}; upload the file again.", field="file")
            return kept_as(row, self._folders)
        return bind_path(value, self._folders, self._owns)

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """For the ledger, where the message is accepted."""
        return tuple(row for row, _ in self._held.values())

    def recording(self) -> dict[str, Any]:
        """An upload that is empty yet, as a parameter of a task."""
        row = self._new("recording", b"")
        return {"$file": {"kind": "upload", "value": row.id, "name": "recording"}}

    @asynccontextmanager
    async def written(self) -> AsyncIterator[None]:
        """On the disk within the block, and for good unless the block fails: then the message is refused."""
        try:
            if self._held:
                await asyncio.to_thread(self._write)
            yield
        except Exception:
            await asyncio.to_thread(self._delete)
            raise

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """In the ledger within the block, and for good unless the block fails; for what is accepted as no job."""
        try:
            for row in self.files:
                await self._ledger.keep(row)
            yield
        except Exception:
            for row in self.files:
                with suppress(Conflict, ServiceError):
                    await self._ledger.drop(row.id)
            raise

    def _write(self) -> None:
        self._folders.uploads.mkdir(parents=True, exist_ok=True)
        for row, content in self._held.values():
            with Path(row.path).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def _delete(self) -> None:
        for row in self.files:
            Path(row.path).unlink(missing_ok=True)

    def _owns(self, path: Path) -> bool:
        row = self._ask(self._ledger.file_at(str(path)))
        return row is not None and row.owner == self._who.owner

    def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(question, self._loop).result()

    def _hold(self, content: bytes) -> FileRef:
        """The same content may be tried as several things."""
        if not content:
            raise InvalidInput("The binary content of 'file' is empty.", field="file")
        row = self._held[id(content)][0] if id(content) in self._held else self._new("content", content)
        return FileRef("upload", row.id, row.name)

    def _new(self, name: str, content: bytes) -> FileRecord:
        file_id = new_file_id()
        path = str(self._folders.uploads / file_id)
        row = FileRecord(file_id, self._who.owner, path, name, len(content), clock.now())
        self._held[id(content)] = row, content
        return row
