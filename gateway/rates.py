"""How often one address may ask: a bucket of tokens for each, from which every message and every request takes one.

A bucket is kept as the time at which it will be full again, so that one that is full need not be kept at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from contract.errors import RateLimited
from gateway.origins import peer_of

BURST_SECONDS = 10.0
"""A bucket holds what comes in so many seconds."""
KEPT = 10_000
"""Buckets among which full ones are not looked for."""
POLLED = "/socket.io/"


class Rates:
    """per_second: tokens for each address; 0: no limit."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cost = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._most = KEPT

    def take(self, address: str) -> None:
        """Raises: RateLimited."""
        if not self._cost:
            return
        now = self._clock()
        full_at = max(self._full_at.get(address, now), now) + self._cost
        if full_at - now > BURST_SECONDS:
            raise RateLimited(
                f"Your address has sent more than {1 / self._cost:g} messages a second for a while "
                "(REQUESTS_PER_SECOND); wait, then send this again.",
                retry_after=math.ceil(full_at - now - BURST_SECONDS),
            )
        self._full_at[address] = full_at
        if len(self._full_at) > self._most:
            self._full_at = {each: time for each, time in self._full_at.items() if time > now}
            self._most = KEPT + 2 * len(self._full_at)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request counts but a long poll, which waits for others."""
        if request.method != "GET" or request.path != POLLED or "sid" not in request.query:
            self.take(peer_of(request))
        return await handler(request)
