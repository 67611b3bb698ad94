"""The memory for what others have begun to send: messages and bodies that are not whole yet, or not answered.

All of it has one limit, and no address may have more than half of what the others leave, so that there is always some
for the next. The first bytes of each are free: small messages never wait for large ones.
"""

from __future__ import annotations

import time
from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler

from contract.errors import QueueFull, RateLimited
from gateway.origins import peer_of
from gateway.patience import LEAST_RATE
from pipeline.intake import MAX_CONTENT_BYTES, too_large

MEMORY_BYTES = 64 * 1024 * 1024
FREE_BYTES = 16 * 1024
"""Of each message or body: what a connection costs anyway."""
RETRY_AFTER_SECONDS = 5


class Unfinished:
    """limit: bytes of all together."""

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.used = 0
        self._limit = limit
        self._of: Counter[str] = Counter()

    def take(self, address: str, size: int) -> None:
        """Raises: RateLimited where the address itself has the most of it, QueueFull where others have."""
        own = self._of[address]
        others = self.used - own
        if own + size > (self._limit - others) // 2:
            busy = RateLimited if own >= others else QueueFull
            raise busy(
                "This server has no memory left for what is on its way to it, from your address or from others; "
                "send this again in a moment, and less at once.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self.used += size
        self._of[address] += size

    def give_back(self, address: str, size: int) -> None:
        self.used -= size
        self._of[address] -= size
        if not self._of[address]:
            del self._of[address]

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What handlers hold of a request counts until it is answered."""
        held = request[HELD] = Held(self, peer_of(request))
        try:
            return await handler(request)
        finally:
            held.clear()


class Held:
    """What one request, or one connection, has brought so far."""

    def __init__(self, memory: Unfinished, address: str) -> None:
        self._memory = memory
        self._address = address
        self._bytes = 0
        self._counted = 0
        self._mark = (time.monotonic(), 0)

    @property
    def large(self) -> bool:
        """Whether it is more than what is free."""
        return self._counted > 0

    def beside(self) -> Held:
        """Another of the same address."""
        return Held(self._memory, self._address)

    def add(self, size: int) -> None:
        """Raises: RateLimited, QueueFull."""
        self._bytes += size
        due = self._bytes - FREE_BYTES - self._counted
        if due > 0:
            self._memory.take(self._address, due)
            self._counted += due

    def lags(self, seconds: float, came: int, waits: bool) -> bool:
        """Whether its connection has brought less than LEAST_RATE for so long. Asked again and again.

        came: bytes that the connection has brought in all. waits: whether the server holds something large that is not
        whole, and reads on; where it does not read, nothing can come.
        """
        now = time.monotonic()
        since, came_then = self._mark
        if not waits or came - came_then >= LEAST_RATE * seconds:
            self._mark = now, came
            return False
        return now - since > seconds

    def clear(self) -> None:
        if self._counted:
            self._memory.give_back(self._address, self._counted)
        self._bytes = self._counted = 0


HELD = web.RequestKey("held", Held)


def held_of(request: web.Request) -> Held:
    """What is counted of a request; of one that no middleware has seen, alone."""
    return request.get(HELD) or Held(Unfinished(), "")


async def whole_body(request: web.Request, most: int = MAX_CONTENT_BYTES) -> bytes:
    """A request's body, which is small enough to be held. Raises: TooLarge, RateLimited, QueueFull."""
    held, body = held_of(request), bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > most:
            raise too_large()
        held.add(len(part))
    return bytes(body)
