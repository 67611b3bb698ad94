"""The HTTP door's files: uploads streamed to the disk, and what the server keeps for its owners streamed back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import content_disposition_header
from aiohttp.http import HttpProcessingError

from contract import clock
from contract.errors import FileNotFound, InvalidInput, ServiceError, TooLarge
from contract.folders import Folders
from gateway.answers import reply
from gateway.auth import Authenticators
from gateway.unfinished import held_of
from pipeline.intake import new_upload
from storage.files import is_unicode, kept_as, opened
from storage.ledger import Conflict, Ledger
from storage.opening import Opened
from storage.records import FileRecord
from storage.space import Space

CHUNK_BYTES = 1 << 20
BUFFER_BYTES = 512 * 1024
"""Of a body that is read in parts, in memory at once."""
MAX_NAME = 255
MAX_FILES = 100
"""In one upload."""
FILE_FIELDS = frozenset({"file", "files", "file[]", "files[]"})
"""How forms call them that hold several."""


class Uploads:
    """Takes files in from multipart bodies. max_upload: bytes. space: of the disk."""

    def __init__(self, ledger: Ledger, folders: Folders, max_upload: int, space: Space | None = None) -> None:
        self._ledger = ledger
        self.folders = folders
        self._max_upload = max_upload
        self._space = space or Space(folders.data)

    async def keep(self, part: BodyPartReader, owner: str) -> FileRecord:
        """Keep a file; nothing of it stays when that fails. Raises: TooLarge, InvalidInput, DiskFull."""
        file_id, path = new_upload(self.folders)
        try:
            size = await self._receive(part, path)
            name = (part.filename or "upload").encode(errors="replace").decode()[:MAX_NAME]
            row = FileRecord(file_id, owner, str(path), name, size, clock.now())
            await self._ledger.keep(row)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return row

    @asynccontextmanager
    async def all_or_none(self, request: web.Request) -> AsyncIterator[list[FileRecord]]:
        """Files that are kept in the block, which lists them; when it fails, none of them stays.

        Raises: DiskFull, before anything is read, where there is no room for all that the request says it holds.
        """
        self._space.check(request.content_length or 0)
        kept: list[FileRecord] = []
        try:
            yield kept
        except BaseException:
            for row in kept:
                with suppress(FileNotFound):
                    await self.remove(row)
            raise

    async def remove(self, row: FileRecord) -> None:
        """Raises: FileNotFound when somebody else was faster."""
        try:
            await self._ledger.drop(row.id)
        except Conflict as exc:
            raise FileNotFound(f"There is no upload {row.id!r}.", field="file_id") from exc
        await asyncio.to_thread(Path(row.path).unlink, missing_ok=True)

    async def _receive(self, part: BodyPartReader, path: Path) -> int:
        """Stream a part to the disk, in a thread. Returns its bytes. Raises: TooLarge, InvalidInput, DiskFull."""
        size = 0
        with path.open("xb") as file:
            while chunk := await next_chunk(part):
                size += len(chunk)
                if size > self._max_upload:
                    raise TooLarge(f"A file may have {self._max_upload / 1e9:g} GB here (MAX_UPLOAD_GB).", field="file")
                self._space.check()
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        if not part.at_eof():
            raise InvalidInput("The upload was cut short; send it again.", field="file")
        if not size:
            raise InvalidInput("The uploaded file is empty.", field="file")
        return size


class FileDoor:
    """The routes under /files."""

    def __init__(self, ledger: Ledger, callers: Authenticators, uploads: Uploads) -> None:
        self._ledger = ledger
        self._callers = callers
        self._uploads = uploads

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.post("/files", self._upload),
                web.get("/files", self._download_made),
                web.get("/files/{file_id}", self._download),
                web.delete("/files/{file_id}", self._delete),
            ]
        )

    async def _upload(self, request: web.Request) -> web.Response:
        """Keep a file, sent as field `file` of a form; answers its `file_id`, and those of several as `files`."""
        owner = self._callers.who(request).owner
        async with self._uploads.all_or_none(request) as kept:
            async for part in _file_parts(request):
                kept.append(await self._uploads.keep(part, owner))
        told = [{"file_id": row.id, "size": row.bytes, "name": row.name} for row in kept]
        return reply({**told[0], "files": told} if len(told) > 1 else told[0], 201)

    async def _own_file(self, request: web.Request) -> FileRecord:
        owner = self._callers.who(request).owner
        row = await self._ledger.file(request.match_info["file_id"])
        if row is None or row.owner != owner:
            raise _no_upload(request)
        return row

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """The content of an upload."""
        file = await self._opened(await self._own_file(request))
        if file is None:
            raise _no_upload(request)
        return _Content(file, "attachment")

    async def _download_made(self, request: web.Request) -> web.StreamResponse:
        """The content of a file that the server made, `?path=` as an answer names it."""
        owner = self._callers.who(request).owner
        path = request.query.get("path", "")
        if not path:
            raise InvalidInput("Say which: '?path=' as an answer names a file that the server made.", field="path")
        row = await self._ledger.file_at(path) if is_unicode(path) else None
        made = row is not None and row.owner == owner and Path(row.path).parent in self._uploads.folders.made
        file = await self._opened(row) if row is not None and made else None
        if row is None or file is None:
            raise FileNotFound(f"The server keeps no file {path[:200]!r} that it made for you.", field="path")
        return _Content(file, content_disposition_header("attachment", quote_fields=False, filename=row.name))

    async def _opened(self, row: FileRecord) -> Opened | None:
        """None where its file is gone, or something else lies in its place."""
        folders = self._uploads.folders
        with suppress(ServiceError):
            return await asyncio.to_thread(opened, kept_as(row, folders), folders)
        return None

    async def _delete(self, request: web.Request) -> web.Response:
        """Delete an upload."""
        await self._uploads.remove(await self._own_file(request))
        return reply({"deleted": True})


def _no_upload(request: web.Request) -> FileNotFound:
    return FileNotFound(f"There is no upload {request.match_info['file_id']!r}.", field="file_id")


class _Content(web.FileResponse):
    """Somebody else's bytes on our origin: never rendered, always saved."""

    def __init__(self, file: Opened, disposition: str) -> None:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": disposition,
            "X-Content-Type-Options": "nosniff",
        }
        super().__init__(file.path, headers=headers)
        self._file = file

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Sends all of it."""
        try:
            return await super().prepare(request)
        finally:
            self._file.close()


async def _file_parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    """At least one; each is to be read before the next. Raises: InvalidInput, TooLarge."""
    if not (request.content_type or "").startswith("multipart/"):
        raise InvalidInput("Send the file as multipart/form-data, in a field 'file'.", field="file")
    found = 0
    async for part in parts_of(request):
        if isinstance(part, BodyPartReader) and part.name in FILE_FIELDS:
            found += 1
            if found > MAX_FILES:
                raise TooLarge(f"One upload may hold {MAX_FILES} files; send the rest in another.", field="file")
            yield part
        elif not isinstance(part, BodyPartReader) or part.filename is not None:
            raise InvalidInput("Name the field of each file 'file'; no other holds one.", field="file")
    if not found:
        raise InvalidInput("The multipart body has no field 'file'.", field="file")


async def parts_of(request: web.Request) -> AsyncIterator[Any]:
    """The parts of a multipart body; each is to be read before the next. Raises: InvalidInput, and what `Held` does."""
    held_of(request).add(BUFFER_BYTES)
    with malformed_is_refused():
        reader = await request.multipart()
    while True:
        with malformed_is_refused():
            part = await reader.next()
        if part is None:
            return
        yield part


async def next_chunk(part: BodyPartReader) -> bytes:
    with malformed_is_refused():
        return await part.read_chunk(CHUNK_BYTES)


@contextmanager
def malformed_is_refused() -> Iterator[None]:
    """Around whatever reads a multipart body: aiohttp has an exception of its own for each way to break one."""
    try:
        yield
    except (ValueError, RuntimeError, HttpProcessingError) as exc:
        raise InvalidInput("The multipart body is malformed.", field="file") from exc
