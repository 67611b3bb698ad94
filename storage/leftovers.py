"""What somebody left who was killed, found by the names that the server gives: a file of any other name is a user's.

    at a start     what nobody has a row for in blobs/ and uploads/, all attempts in work/, temporary/: they are over
    by the hour    the same of jobs that have ended, and half of a voice, a speech, a download or a model; once it has
                   been there, unchanged, for as long as anybody may still be at work on it

How long that is this server counts itself, since the machine's clock may jump.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from contract.errors import ServiceError
from contract.folders import Folders
from contract.messages import BLOB_NAME, FILE_ID
from storage.ledger import Ledger
from storage.voices import Voices
from storage.workdirs import HALF, WORKDIR, job_of

log = structlog.get_logger()

HOUR, DAY = 3600.0, 86_400.0


class Leftovers:
    """Those of one server."""

    def __init__(self, ledger: Ledger, folders: Folders) -> None:
        self._ledger = ledger
        self._folders = folders
        self._seen: dict[tuple[Path, float], float] = {}
        """By path and change: when it was seen first, by the monotonic clock."""

    async def clear_at_start(self) -> None:
        """Before anybody works in DATA_DIR."""
        known = await self._ledger.known()
        kept = await asyncio.to_thread(_kept, self._folders)
        attempts = await asyncio.to_thread(_attempts, self._folders)
        nobodys = [path for path in kept if path.name not in known.names]
        await asyncio.to_thread(_delete, [*nobodys, *attempts, *_in(self._folders.temporary)])

    async def clear(self, now: float | None = None) -> None:
        """Beside everybody who works. now: the monotonic clock."""
        found = await asyncio.to_thread(_all, self._folders)
        try:
            await self._ledger.settled()
        except ServiceError:  # what was told has no rows yet
            return
        known = await self._ledger.known()
        there = [path for path in found if path.name not in known.names and job_of(path) not in known.jobs]
        old = await asyncio.to_thread(self._old, there, time.monotonic() if now is None else now)
        await asyncio.to_thread(_delete, old)

    def _old(self, there: list[Path], now: float) -> list[Path]:
        seen = {}
        for path in there:
            try:
                found = (path, path.lstat().st_mtime)
            except FileNotFoundError:
                continue
            seen[found] = self._seen.get(found, now)
        self._seen = seen
        return [path for (path, _), first in seen.items() if now - first >= self._age(path)]

    def _age(self, path: Path) -> float:
        """A result may be told long after it was written, where the disk is full; a model may be slow to fetch."""
        return HOUR if path.parent in (self._folders.work, *self._folders.made) else DAY


def _all(folders: Folders) -> list[Path]:
    return [*_kept(folders), *_attempts(folders), *_halves(folders)]


def _kept(folders: Folders) -> Iterator[Path]:
    """Files that have a row in the ledger, or should."""
    for folder, name in ((folders.blobs, BLOB_NAME), (folders.uploads, FILE_ID)):
        yield from (path for path in _in(folder) if name.fullmatch(path.name) and path.is_file())


def _attempts(folders: Folders) -> Iterator[Path]:
    yield from (path for path in _in(folders.work) if WORKDIR.fullmatch(path.name))


def _halves(folders: Folders) -> Iterator[Path]:
    """What has its own name only once it is whole."""
    for made in folders.made:
        yield from (path for path in _in(made) if HALF.fullmatch(path.name))
    for models in (folders.models, folders.models / "converted"):
        yield from (path for path in models.glob("*.part") if path.with_suffix(".lock").exists())
    yield from Voices(folders.voices).halves()


def _in(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("leftover_stays", path=str(path), reason=exc.strerror)
