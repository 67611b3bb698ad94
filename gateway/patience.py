"""How long a client may take with what it has begun. A connection is closed when

- it says nothing, has not sent the whole head of a request, or keeps still after an answer: that is aiohttp's
  `keepalive_timeout`, which counts from its beginning and from the end of each answer, and which no byte extends;
- the body of a request does not go on, or more slowly than `LEAST_RATE`: `Patience`, here, since aiohttp waits for a
  body for ever; a message on a websocket, likewise: `gateway.wire`;
- nothing of an answer is taken: the system sees to that, for files as for all else, since `Patience` asks it to;
- a websocket does not say who it is: `gateway.engineio_server`.

Nothing else counts. An upload of hours on a slow line, an event stream and a long poll go on.
"""

from __future__ import annotations

import asyncio
import socket

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from contract.errors import InvalidInput
from gateway.outbound import UNREAD_SECONDS

log = structlog.get_logger()

LEAST_RATE = 500
"""Bytes a second, on average over the time for which it may stand still. What comes more slowly than over any line that
people use holds for hours what others need: a body of 4 MiB at this rate takes two."""
LOOKS = 5
"""A body is looked at so many times within the seconds that it may stand still."""
CLOSE_SECONDS = 2.0
"""Seconds for the answer to leave, before the connection is cut."""
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
"""RFC 5482: how long sent data may stay unacknowledged; Linux counts data that find no room with the client too."""


class Stalled(InvalidInput, TimeoutError):
    """As a `TimeoutError` aiohttp expects it where it reads what is left of a body."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"For {seconds:g} s nothing of this {what} came, or less than {LEAST_RATE} bytes a second; send it again."
        )


class Patience:
    """seconds: how long a body may stand still, or come too slowly; it is noticed a fifth later at most.

    reading: seconds in which a client must take something of its answer, where the system can see to it.
    """

    def __init__(self, seconds: float, reading: float = UNREAD_SECONDS) -> None:
        self._seconds = seconds
        self._reading = reading

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whoever reads a body that stands still gets `Stalled` for it."""
        connection = request.get_extra_info("socket")
        if connection is not None and _USER_TIMEOUT is not None:
            connection.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(self._reading * 1000))
        if not request.body_exists or request.content.is_eof():
            return await handler(request)
        watch = _Watch(request, self._seconds)
        try:
            return await handler(request)
        finally:
            watch.stop()


class _Watch:
    """Over one request's body."""

    def __init__(self, request: web.Request, seconds: float) -> None:
        self._request = request
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._mark()

    def stop(self) -> None:
        self._timer.cancel()

    def _mark(self) -> None:
        self._since = self._loop.time()
        self._bytes = self._request.content.total_raw_bytes
        self._again()

    def _again(self) -> None:
        self._timer = self._loop.call_later(self._seconds / LOOKS, self._look)

    def _look(self) -> None:
        content, transport = self._request.content, self._request.transport
        if content.is_eof() or content.exception() is not None or transport is None:
            return
        waiting = transport.is_reading()  # otherwise the server is slow, at the disk for example
        if not waiting or content.total_raw_bytes - self._bytes >= LEAST_RATE * self._seconds:
            self._mark()
        elif self._loop.time() - self._since < self._seconds:
            self._again()
        else:
            log.info("body_stalled", bytes=content.total_raw_bytes)
            content.set_exception(Stalled("request's body", self._seconds))
            self._timer = self._loop.call_later(CLOSE_SECONDS, transport.abort)
