"""What all HTTP routes share: answers as JSON, and errors in the dialect of the API that was asked.

An API is an aiohttp application. One that is mounted below another speaks that one's dialect, or its own, `DIALECT`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from contract.errors import ERRORS, Internal, InvalidInput, MethodNotAllowed, NotFound, ServiceError, as_failure
from contract.logs import about
from gateway.outbound import UNREAD_SECONDS
from pipeline.intake import check_text, too_large

log = structlog.get_logger()

PIECE_BYTES = 96 * 1024
"""Written at once; of threes, so that the base64 of pieces can be joined."""
MAX_SHOWN = 200
"""Characters of what a client wrote that an answer repeats."""
LOOK_SECONDS = 5.0
"""How often a request that waits is looked at, since nothing tells that its client has left."""
GARBLED = (HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises for what is no HTTP."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def reply(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def parsed(body: bytes, meaning: str) -> Any:
    """A body that is JSON. meaning: what it should be, for who sent something else. Raises: InvalidInput, TooLarge."""
    check_text(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"The body must be JSON, {meaning}.") from exc


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """How an API writes. refusal: an error, given what `as_failure` made of it and its HTTP status."""

    refusal: Callable[[dict[str, Any], int], web.Response]


NATIVE = Dialect(lambda failure, status: reply({"status": "error", **failure}, status))
"""The protocol's error object."""
DIALECT = web.AppKey("dialect", Dialect)
"""An application's own dialect."""


async def reply_in_parts(request: web.Request, parts: Sequence[bytes | Path], status: int = 200) -> web.StreamResponse:
    """JSON of which no more than a piece is in memory, as of `blobs.parts`."""
    response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    response.content_length = sum(await asyncio.to_thread(lambda: [*map(_length, parts)]))
    await response.prepare(request)
    if request.method != "HEAD":
        await Writer(request, response).write(*parts)
    return response


def _length(part: bytes | Path) -> int:
    """Bytes that a part has when it is written."""
    if isinstance(part, bytes):
        return len(part)
    size = part.stat().st_size
    return 4 * -(-size // 3) + 2 if part.suffix == ".bin" else size


BEGUN = web.RequestKey("begun", bool)
"""Whether the head of the answer has left, so that no other can follow."""
MESSAGE = web.RequestKey("message", dict[str, Any])
"""What the body was understood as, so that the log of a failure can leave it out."""


def _route(request: web.Request) -> str | None:
    """The path as the server declares it, without what the client put in."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error, also of a path that nobody has, in the dialect of the API that was asked."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        failure = as_failure(too_large())
    except web.HTTPMethodNotAllowed as exc:
        failure = as_failure(_not_allowed(request, exc))
        return _refusal(failure, request, {"Allow": exc.headers["Allow"]})
    except web.HTTPNotFound:
        failure = as_failure(NotFound(f"This server has nothing at {_path(request)}; GET /docs shows what it has."))
    except web.HTTPException:
        raise
    except GARBLED:
        log.info("body_unreadable")
        failure = as_failure(InvalidInput("The body is not what its head says: its encoding or its chunks are broken."))
    except ConnectionResetError:
        log.info("client_left", route=_route(request))
        return web.Response(status=400)  # which nobody reads; aiohttp would log the exception as the server's
    except Exception as exc:
        if not isinstance(exc, ServiceError):
            with about(None, [*request.headers.values(), request.path_qs, request.get(MESSAGE)]):
                log.exception("request_failed", route=_route(request))
        failure = as_failure(exc)
    if BEGUN in request:
        _cut(request)
    return _refusal(failure, request)


def _not_allowed(request: web.Request, exc: web.HTTPMethodNotAllowed) -> MethodNotAllowed:
    allowed = ", ".join(sorted(exc.allowed_methods))
    return MethodNotAllowed(f"{_path(request)} takes {allowed}, not {exc.method[:MAX_SHOWN]}.")


def _path(request: web.Request) -> str:
    return repr(request.path[:MAX_SHOWN])


def _cut(request: web.Request) -> None:
    """End the connection, so that the client sees that its answer is not whole."""
    if request.transport is not None:
        request.transport.abort()


def _refusal(
    failure: dict[str, Any], request: web.Request | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """request: None for one that cannot be read."""
    apps = request.match_info.apps if request is not None else ()
    dialect = next((app[DIALECT] for app in reversed(apps) if DIALECT in app), NATIVE)
    response = dialect.refusal(failure, ERRORS.get(failure["error_code"], Internal).status)
    response.headers.update(headers or {})
    return response


class Writer:
    """Writes bytes and files to a response whose head has left, a piece at a time as the client takes them.

    Raises: ConnectionResetError when the client is gone, or has taken nothing for UNREAD_SECONDS and is cut off.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        request[BEGUN] = True

    async def write(self, *parts: bytes | Path) -> None:
        """Bytes of a `.bin` file become base64 in JSON."""
        for part in parts:
            if isinstance(part, bytes):
                await self._write(part)
                continue
            quote, encode = (b'"', b64encode) if part.suffix == ".bin" else (b"", bytes)
            await self._write(quote)
            with await asyncio.to_thread(part.open, "rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    await self._write(encode(piece))
            await self._write(quote)

    async def _write(self, content: bytes) -> None:
        for start in range(0, len(content), PIECE_BYTES):
            try:
                async with asyncio.timeout(UNREAD_SECONDS):
                    await self._response.write(content[start : start + PIECE_BYTES])
            except TimeoutError:
                _cut(self._request)
                raise ConnectionResetError("the client takes nothing") from None


async def while_connected(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, unless its client leaves before. Raises: ConnectionResetError."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=LOOK_SECONDS))[0]:
            if request.transport is None:
                raise ConnectionResetError("the client has left")
        return task.result()
    finally:
        task.cancel()


class _Protocol(RequestHandler):
    """aiohttp answers what is no HTTP with a text that repeats it; here it is an error as all others."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        if status < 500:
            response = _refusal(as_failure(InvalidInput("This is no HTTP request that the server understands.")))
            response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        protocol = super().__call__()
        protocol.__class__ = _Protocol
        return protocol


def guard(server: web.Server) -> None:
    """Answer requests that fail before any middleware is asked.

    aiohttp repeats a header that is no text in its own answer, and fails at it; an `Expect` it repeats as plain text.
    """
    server.__class__ = _Server
    handle = server.request_handler

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except UnicodeError:
            return _refusal(as_failure(InvalidInput("A header of this request is no text.")))
        except web.HTTPExpectationFailed:
            return _refusal(as_failure(InvalidInput("This server meets no 'Expect' but 100-continue.")))

    server.request_handler = guarded


class _OwnFaults(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], GARBLED):
            log.info("request_unreadable", error=type(record.exc_info[1]).__name__)
            return False
        return True


def server_log() -> logging.Logger:
    """aiohttp's own log without what strangers send in place of HTTP, which it would tell with a traceback."""
    logger = logging.getLogger("aiohttp.server")
    if not logger.filters:
        logger.addFilter(_OwnFaults())
    return logger
