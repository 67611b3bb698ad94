"""What somebody left who was killed, found by the names that the server gives: a file of any other name is a user's.

    at a start     files in blobs/ and uploads/ that the ledger has no row for, and what attempts and processes had in
                   work/ and temporary/, since none outlives its server
    by the hour    the same of jobs that have ended, and the unfinished half of a voice, a speech or a download, once it
                   has been there, unchanged, for as long as anybody may still be at work on it; half of a model as soon
                   as nobody holds the lock that whoever fetches it holds

The server counts that time itself, since the machine's clock may jump.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

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
        processes = [path for path in _in(self._folders.temporary) if path.name.isdecimal()]
        await asyncio.to_thread(_delete, [*nobodys, *attempts, *processes])

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
        await asyncio.to_thread(_delete_models, self._folders)

    def _old(self, there: list[Path], now: float) -> list[Path]:
        seen = {}
        for path in there:
            try:
                found = (path, path.lstat().st_mtime)
            except OSError:  # it is gone, or on a network disk that is
                continue
            seen[found] = self._seen.get(found, now)
        self._seen = seen
        return [path for (path, _), first in seen.items() if now - first >= self._age(path)]

    def _age(self, path: Path) -> float:
        """A result may be told long after it was written, where the disk is full."""
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
    yield from Voices(folders.voices).halves()


def _delete_models(folders: Folders) -> None:
    """Those that are half fetched, of which nobody holds the lock (`workers.runtime.hub.build`)."""
    for models in (folders.models, folders.models / "converted"):
        for part in models.glob("*.part"):
            lock = part.with_suffix(".lock")
            if lock.exists():
                with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
                    _delete([part])


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
