"""How many connections there may be: in all, so that files and the ledger can still be opened, and of one address.

A connection beyond is told so and closed. What comes by a trusted proxy is counted by the requests that are under way,
since the proxy's connections are everybody's; websockets and long polls are such requests too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from contract.errors import QueueFull, RateLimited, ServiceError, as_failure
from gateway.origins import Origins, counted_as, peer_of

RETRY_AFTER_SECONDS = 5
_REASONS = {429: "Too Many Requests", 503: "Service Unavailable"}


class Seats:
    """most: of all together; each: of one address."""

    def __init__(self, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._taken: Counter[str] = Counter()

    def check(self, address: str) -> None:
        """Raises: QueueFull, RateLimited where the address has all of its own."""
        if self._taken.total() >= self._most:
            raise QueueFull(
                f"This server has {self._most} connections and takes no more until some are closed.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if self._taken[address] >= self._each:
            raise RateLimited(
                f"Your address has {self._each} connections to this server (MAX_CONNECTIONS_PER_ADDRESS); close some.",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def take(self, address: str) -> None:
        self._taken[address] += 1

    def give_back(self, address: str) -> None:
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]


class Connections:
    """Every connection has a seat. origins: knows the proxies."""

    def __init__(self, most: int, each: int, origins: Origins) -> None:
        self._all = Seats(most, most)
        self._own = Seats(most, each)
        self._origins = origins
        self._connected: dict[Any, str] = {}

    def guard(self, server: web.Server) -> None:
        """Count the connections of a server, and close those beyond the limits."""
        made, lost = server.connection_made, server.connection_lost

        def connection_made(protocol: Any, transport: Any) -> None:
            made(protocol, transport)
            try:
                self._enter(protocol, counted_as((transport.get_extra_info("peername") or ("",))[0]))
            except ServiceError as exc:
                transport.write(_answer(exc))
                transport.close()

        def connection_lost(protocol: Any, exc: BaseException | None = None) -> None:
            lost(protocol, exc)
            address = self._connected.pop(protocol, None)
            if address is None:
                return
            self._all.give_back(address)
            if address:
                self._own.give_back(address)

        server.connection_made = connection_made  # type: ignore[method-assign, assignment]
        server.connection_lost = connection_lost  # type: ignore[method-assign, assignment]

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request of a proxy's client as a connection of that. Raises: RateLimited, QueueFull."""
        if not self._origins.is_proxy(request.remote):
            return await handler(request)
        peer = peer_of(request)
        self._own.check(peer)
        self._own.take(peer)
        try:
            return await handler(request)
        finally:
            self._own.give_back(peer)

    def _enter(self, protocol: Any, address: str) -> None:
        self._all.check(address)
        name = "" if self._origins.is_proxy(address) else address
        if name:
            self._own.check(name)
            self._own.take(name)
        self._all.take(name)
        self._connected[protocol] = name


def _answer(error: ServiceError) -> bytes:
    """To a connection on which nothing was asked yet."""
    body = orjson.dumps({"status": "error", **as_failure(error)})
    head = (
        f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {RETRY_AFTER_SECONDS}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
