"""The HTTP door, on the same port: files, jobs, events, health, metrics and the page.

Who asks is the `Authorization: Bearer` token. A `POST` without one is a new client's; its token comes back in the
answer, and is what the client needs to see its job again.
"""

from __future__ import annotations

import asyncio
import os
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import structlog
from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.auth import Tokens
from gateway.health import Health
from gateway.page import INDEX
from media.files import Folders
from pipeline import blobs
from pipeline import ledger as rows
from pipeline.database import Conflict
from pipeline.errors import (
    ERRORS,
    FileNotFound,
    Internal,
    InvalidInput,
    JobNotFound,
    ServiceError,
    TooLarge,
    Unauthorized,
    as_failure,
)
from pipeline.intake import MAX_CONTENT_BYTES, Identity, check_message, new_upload
from pipeline.ledger import FileRow, JobRow, Ledger
from pipeline.result_queue import ResultQueue

log = structlog.get_logger()

CHUNK_BYTES = 1 << 20
MAX_NAME = 255
MAX_SEQ_DIGITS = 19
PING_SECONDS = 15.0
"""A proxy between us and the client may close what is silent for longer."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpDoor:
    """The routes. max_upload: bytes."""

    def __init__(  # noqa: PLR0917
        self,
        road: ResultQueue,
        ledger: Ledger,
        tokens: Tokens,
        folders: Folders,
        health: Health,
        max_upload: int,
    ) -> None:
        self._road = road
        self._ledger = ledger
        self._tokens = tokens
        self._folders = folders
        self._health = health
        self._max_upload = max_upload

    def attach(self, app: web.Application) -> None:
        app.on_response_prepare.append(_tell_origin)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/health", self._get_health),
                web.get("/metrics", self._metrics),
                web.post("/files", self._upload),
                web.get("/files/{file_id}", self._download),
                web.delete("/files/{file_id}", self._delete_file),
                web.post("/jobs", self._submit),
                web.get("/jobs/{job_id}", self._job),
                web.get("/jobs/{job_id}/events", self._events),
                web.post("/jobs/{job_id}/audio", self._append),
                web.delete("/jobs/{job_id}", self._cancel),
            ]
        )

    # The server itself.

    async def _page(self, request: web.Request) -> web.StreamResponse:
        """The page for people."""
        return web.FileResponse(INDEX)

    async def _get_health(self, request: web.Request) -> web.Response:
        """How the server and its workers are."""
        return _json(self._health.report())

    async def _metrics(self, request: web.Request) -> web.Response:
        """Figures for Prometheus."""
        return web.Response(body=generate_latest(self._health.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # Files.

    async def _upload(self, request: web.Request) -> web.Response:
        """Keep a file, sent as field `file` of a form; answers its `file_id`."""
        owner = self._who(request).owner
        part = await _file_part(request)
        file_id, path = new_upload(self._folders)
        try:
            size = await self._receive(part, path)
            name = (part.filename or "upload").encode(errors="replace").decode()[:MAX_NAME]
            await self._ledger.commit(rows.file_added(FileRow(file_id, owner, str(path), name, size, time.time())))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return _json({"file_id": file_id, "size": size, "name": name}, 201)

    async def _receive(self, part: BodyPartReader, path: Path) -> int:
        """Stream a part to the disk, off the event loop. Returns its bytes. Raises: TooLarge, InvalidInput."""
        size = 0
        with path.open("xb") as file:
            while chunk := await _next_chunk(part):
                size += len(chunk)
                if size > self._max_upload:
                    raise TooLarge(f"A file may have {self._max_upload / 1e9:g} GB here (MAX_UPLOAD_GB).", field="file")
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        if not part.at_eof():
            raise InvalidInput("The upload was cut short; send it again.", field="file")
        if not size:
            raise InvalidInput("The uploaded file is empty.", field="file")
        return size

    async def _own_file(self, request: web.Request) -> FileRow:
        owner = self._who(request).owner
        file_id = request.match_info["file_id"]
        row = await self._ledger.read(lambda db: rows.file_row(db, file_id))
        if row is None or row.owner != owner:
            raise FileNotFound(f"There is no upload {file_id!r}.", field="file_id")
        return row

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """The content of an upload."""
        row = await self._own_file(request)
        # Somebody else's bytes on our origin: never rendered, always saved.
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
        }
        return web.FileResponse(row.path, headers=headers)

    async def _delete_file(self, request: web.Request) -> web.Response:
        """Delete an upload."""
        row = await self._own_file(request)
        try:
            await self._ledger.commit(rows.file_removed(row.id))
        except Conflict as exc:  # somebody else was faster
            raise FileNotFound(f"There is no upload {row.id!r}.", field="file_id") from exc
        await asyncio.to_thread(Path(row.path).unlink, missing_ok=True)
        return _json({"deleted": True})

    # Jobs.

    async def _submit(self, request: web.Request) -> web.Response:
        """Accept a message; answers 202 with its `job_id`, and a token if none was sent."""
        fresh = "Authorization" not in request.headers
        who = self._who(request)
        try:
            message = orjson.loads(await request.read())
        except orjson.JSONDecodeError as exc:
            raise InvalidInput("The body must be JSON, the same as a `message`.") from exc
        check_message(message)
        job_id = await self._road.submit(message, who)
        token = {"token": self._tokens.issue(who.client)[1]} if fresh else {}
        return _json({"job_id": job_id, "id": message.get("id"), **token}, 202)

    async def _own_job(self, request: web.Request) -> JobRow:
        if "Authorization" not in request.headers:
            raise JobNotFound("Send the token of the job's client as 'Authorization: Bearer …'.", field="job_id")
        return await self._road.job(request.match_info["job_id"], self._who(request).client)

    async def _job(self, request: web.Request) -> web.Response:
        """A job's state, progress and, once it has ended, its whole answer."""
        row = await self._own_job(request)
        final = await self._ledger.read(lambda db: rows.final_event(db, row.id))
        answer = await asyncio.to_thread(blobs.inlined, orjson.loads(final), self._folders) if final else None
        return _json({**self._road.describe(row), "answer": answer})

    async def _cancel(self, request: web.Request) -> web.Response:
        """Cancel a job."""
        row = await self._own_job(request)
        return _json({"cancelled": await self._road.cancel(row.id, row.client)})

    async def _append(self, request: web.Request) -> web.Response:
        """Add the body to a recording that a job follows; `?offset=`: the bytes before it; `&end=1`: it is whole."""
        row = await self._own_job(request)
        offset = request.query.get("offset")
        if offset is not None and (not offset.isdecimal() or len(offset) > MAX_SEQ_DIGITS):
            raise InvalidInput("'offset' must be the number of bytes before this piece.", field="offset")
        place, end = None if offset is None else int(offset), request.query.get("end") == "1"
        received = self._road.recordings.append(row.id, row.client, place, await request.read(), end=end)
        return _json({"received": received})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: everything after `Last-Event-ID`, then live, until the final answer."""
        row = await self._own_job(request)
        last = request.headers.get("Last-Event-ID", "0")
        if not last.isdecimal() or len(last) > MAX_SEQ_DIGITS:
            raise InvalidInput("'Last-Event-ID' must be the seq of the last event that you have.")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        async for kind, seq, body in self._follow(row, int(last) if int(last) <= row.seq else 0):
            head = f"event: {kind}\n" + (f"id: {seq}\n" if seq is not None else "")
            await response.write(head.encode() + b"data: " + _text(body) + b"\n\n" if kind else b": ping\n\n")
        return response

    async def _follow(self, row: JobRow, seq: int) -> AsyncIterator[tuple[str, int | None, dict[str, Any]]]:
        """(kind, seq, body) of a job's events, the kind "" when there was none for a while.

        What is kept comes from the ledger; live news only rings the bell.
        """
        news = asyncio.Event()
        hints: list[dict[str, Any]] = []

        def listener(client: str, job_id: str, outs: Any) -> None:
            if job_id == row.id:
                hints[:] = [out.body for out in outs if out.seq is None] or hints
                news.set()

        stop = self._road.listen(listener)
        try:
            while row.finished_at is None or seq < row.seq:
                news.clear()
                for event in await self._road.told(row.id, seq):
                    seq = event.seq
                    body = await asyncio.to_thread(blobs.inlined, orjson.loads(event.body), self._folders)
                    yield ("message" if event.kind == "final" else event.kind), seq, body
                    if event.kind == "final":
                        return
                    news.set()
                while hints:
                    yield "progress", None, hints.pop()
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        await news.wait()
                except TimeoutError:
                    yield "", None, {}
        finally:
            stop()

    def _who(self, request: web.Request) -> Identity:
        """Raises: Unauthorized for a token that is not ours; no token is a new client."""
        header = request.headers.get("Authorization")
        if header is None:
            return self._tokens.issue()[0]
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("Send the token as 'Authorization: Bearer …'.")
        return self._tokens.read(token.strip())


async def _file_part(request: web.Request) -> BodyPartReader:
    if not (request.content_type or "").startswith("multipart/"):
        raise InvalidInput("Send the file as multipart/form-data, in a field 'file'.", field="file")
    with _malformed_is_refused():
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name == "file":
                return part
    raise InvalidInput("The multipart body has no field 'file'.", field="file")


async def _next_chunk(part: BodyPartReader) -> bytes:
    with _malformed_is_refused():
        return await part.read_chunk(CHUNK_BYTES)


@contextmanager
def _malformed_is_refused() -> Iterator[None]:
    """Around whatever reads a multipart body: aiohttp has an exception of its own for each way to break one."""
    try:
        yield
    except (ValueError, RuntimeError, HttpProcessingError) as exc:
        raise InvalidInput("The multipart body is malformed.", field="file") from exc


def _text(body: Any) -> bytes:
    """JSON; what is bytes on a socket is base64 in it."""
    return orjson.dumps(body, default=_base64)


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=_text(body), status=status, content_type="application/json")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as the protocol's error object."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        limit = MAX_CONTENT_BYTES // 2**20
        failure = as_failure(TooLarge(f"A message may carry {limit} MiB; upload larger files with POST /files."))
    except web.HTTPException:
        raise
    except ConnectionResetError:
        log.info("client_left", path=request.path)
        return web.Response(status=400)  # which nobody reads; aiohttp would log the exception as the server's
    except Exception as exc:
        if not isinstance(exc, ServiceError):
            log.exception("request_failed", path=request.path)
        failure = as_failure(exc)
    return _json({"status": "error", **failure}, ERRORS.get(failure["error_code"], Internal).status)


def same_origin(allowed: tuple[str, ...]) -> Any:
    """Middleware: a page from elsewhere may use this server only when its origin is listed."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None or origin.partition("://")[2] == request.host:
            return await handler(request)
        if origin not in allowed and "*" not in allowed:
            raise web.HTTPForbidden(text=f"{origin} is not among this server's CORS_ORIGINS.")
        request[_ORIGIN] = origin
        if request.method == "OPTIONS":
            permitted = {
                "Access-Control-Allow-Methods": "GET, POST, DELETE",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
            }
            return web.Response(status=204, headers=permitted)
        return await handler(request)

    return check


_ORIGIN = web.RequestKey("allowed_origin", str)


async def _tell_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page of a listed origin read the answer; called before the head of any answer is sent, streams too."""
    if _ORIGIN in request:
        response.headers.update({"Access-Control-Allow-Origin": request[_ORIGIN], "Vary": "Origin"})
