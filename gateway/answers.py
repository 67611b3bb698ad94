"""What all HTTP routes share: answers as JSON, errors as the protocol has them, and whose pages may read them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from aiohttp import web

from pipeline.errors import ERRORS, Internal, ServiceError, TooLarge, as_failure
from pipeline.intake import MAX_CONTENT_BYTES
from pipeline.logs import about

log = structlog.get_logger()

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


MESSAGE = web.RequestKey("message", dict[str, Any])
"""What the body was understood as, so that the log of a failure can leave it out."""


def _route(request: web.Request) -> str | None:
    """The path as the server declares it, without what the client put in."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


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
        log.info("client_left", route=_route(request))
        return web.Response(status=400)  # which nobody reads; aiohttp would log the exception as the server's
    except Exception as exc:
        if not isinstance(exc, ServiceError):
            with about(None, [*request.headers.values(), request.path_qs, request.get(MESSAGE)]):
                log.exception("request_failed", route=_route(request))
        failure = as_failure(exc)
    return reply({"status": "error", **failure}, ERRORS.get(failure["error_code"], Internal).status)


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
