"""What is kept, and for how long: answers, events, uploads and blobs go when `RETENTION_HOURS` are over.

Only what the server made is ever deleted. Files are unlinked after the ledger has forgotten them; what a crash left in
between has no row, and goes at the next start.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import structlog

from contract.folders import Folders
from storage.ledger import Ledger

log = structlog.get_logger()

SWEEP_SECONDS = 3600.0
SWEEP_ROWS = 500
"""Jobs that are forgotten in one commit: acceptance waits behind it."""


class Retention:
    """Sweeps at the start and every hour."""

    def __init__(self, ledger: Ledger, folders: Folders, hours: float) -> None:
        self._ledger = ledger
        self._folders = folders
        self._seconds = hours * 3600
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Clear what a crash left behind, then sweep for as long as the server runs."""
        await asyncio.to_thread(shutil.rmtree, self._folders.work, ignore_errors=True)
        known = await self._ledger.known()
        await asyncio.to_thread(_unlink, _strangers(self._folders.blobs, known.blobs))
        await asyncio.to_thread(_unlink, _strangers(self._folders.uploads, known.files))
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> None:
        """Forget everything that is older than the retention."""
        before = time.time() - self._seconds
        while any(old := await self._ledger.expired(before, SWEEP_ROWS)):
            await self._ledger.forget(old)
            paths = [*(self._folders.blobs / name for name in old.blobs), *map(Path, old.files)]
            await asyncio.to_thread(_unlink, paths)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("sweep_failed")  # the next one tries again
            await asyncio.sleep(SWEEP_SECONDS)


def _strangers(folder: Path, known: frozenset[str]) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in known] if folder.is_dir() else []


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
