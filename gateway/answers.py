"""What all HTTP routes share: answers as JSON, errors as the protocol has them, and whose pages may read them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import structlog
from aiohttp import web

from pipeline.errors import ERRORS, Internal, ServiceError, TooLarge, as_failure
from pipeline.intake import MAX_CONTENT_BYTES

log = structlog.get_logger()

PIECE_BYTES = 96 * 1024
"""Written at once; of threes, so that the base64 of pieces can be joined."""
STALL_SECONDS = 60.0
"""Who takes nothing for so long is closed; a stream of events may be taken up again."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def as_json(body: Any) -> bytes:
    """JSON; what is bytes on a socket is base64 in it."""
    return orjson.dumps(body, default=_base64)


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(type(value).__name__)


def reply(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=as_json(body), status=status, content_type="application/json")


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
    return reply({"status": "error", **failure}, ERRORS.get(failure["error_code"], Internal).status)


class Writer:
    """Writes bytes and files to a response, a piece at a time as the client takes them.

    Raises: ConnectionResetError when the client is gone, or has taken nothing for STALL_SECONDS and is cut off.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response

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
                async with asyncio.timeout(STALL_SECONDS):
                    await self._response.write(content[start : start + PIECE_BYTES])
            except TimeoutError:
                if self._request.transport is not None:
                    self._request.transport.abort()
                raise ConnectionResetError("the client takes nothing") from None


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


async def tell_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page of a listed origin read the answer; called before the head of any answer is sent, streams too."""
    if _ORIGIN in request:
        response.headers.update({"Access-Control-Allow-Origin": request[_ORIGIN], "Vary": "Origin"})
