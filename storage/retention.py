"""What is kept, and for how long: answers, events, uploads and blobs go when `RETENTION_HOURS` are over.

Only what the server made is ever deleted. Files are unlinked after the ledger has forgotten them; what a crash left in
between has no row, and goes with the leftovers.

Nobody knows how long a server was off: its machine's clock may be years ahead or behind. So a deadline counts only the
time that the server is up, and an age at most a day of the time since it was last seen up, and never less than nothing.
By what the clock has jumped beyond that, all times in the ledger are moved along. A server that was really off for a
month keeps everything for a month longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from contract import clock
from contract.folders import Folders
from storage.ledger import Ledger
from storage.leftovers import Leftovers

log = structlog.get_logger()

SWEEP_SECONDS, LEAST_SWEEP_SECONDS = 3600.0, 1.0
"""Between two sweeps, at most and at least; else when the next is due."""
SEEN_SECONDS = 60.0
"""How often the ledger is told how late it is."""
DAY = 86_400.0
"""Most of the time since then that counts."""
TRIFLE = 60.0
"""Seconds that a clock may be set back without anything being moved."""
SWEEP_ROWS = 500
"""Jobs that are forgotten in one commit: acceptance waits behind it."""


class Retention:
    """Sweeps at the start and whenever something is due."""

    def __init__(self, ledger: Ledger, folders: Folders, hours: float) -> None:
        self._ledger = ledger
        self._folders = folders
        self._leftovers = Leftovers(ledger, folders)
        self._seconds = hours * 3600
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Account for the clock, clear what a crash left behind, then sweep for as long as the server runs."""
        await account(self._ledger, clock.now())
        await self._leftovers.clear_at_start()
        self._tasks = [asyncio.create_task(each()) for each in (self._run, self._see, self._tidy)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ledger.see(clock.now())

    async def sweep(self) -> None:
        """Forget everything that is older than the retention."""
        before = clock.now() - self._seconds
        while any(old := await self._ledger.expired(before, SWEEP_ROWS)):
            await self._ledger.forget(old)
            paths = [*(self._folders.blobs / name for name in old.blobs), *map(Path, old.files)]
            await asyncio.to_thread(_unlink, paths)

    async def _run(self) -> None:
        while True:
            pause = min(SWEEP_SECONDS, self._seconds)
            try:
                await self.sweep()
                now = clock.now()
                due = await self._ledger.next_due(now - self._seconds)
                if due is not None:
                    pause = min(pause, due + self._seconds - now)
            except Exception:
                log.exception("sweep_failed")  # the next one tries again
            await asyncio.sleep(max(pause, LEAST_SWEEP_SECONDS))

    async def _tidy(self) -> None:
        while True:
            try:
                await self._leftovers.clear()
            except Exception:
                log.exception("leftovers_not_cleared")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _see(self) -> None:
        while True:
            self._ledger.see(clock.now())
            await asyncio.sleep(SEEN_SECONDS)


async def account(ledger: Ledger, now: float) -> None:
    """Move the times in the ledger by how long the server was off, and by what the clock has jumped meanwhile."""
    seen = await ledger.seen()
    if seen is None or (abs(now - seen) < TRIFLE and now < seen):
        return
    off = now - seen
    jumped = off - min(max(off, 0.0), DAY)
    if jumped:
        log.warning("clock_jumped", hours=round(jumped / 3600, 1))
    await ledger.move(jumped, off, now)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
