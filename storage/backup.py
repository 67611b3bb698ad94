"""A copy of what a server keeps, made while it runs: the ledger first, then the files that this ledger knows.

    TARGET/data/     ledger.sqlite3, secret.key, blobs/, uploads/        TARGET/voices/     saved voices

Results and uploads are on the disk before the ledger names them, so the copy has all that its ledger names but for what
was deleted meanwhile. It has its name once it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from contract.folders import Folders
from storage.ledger import Unusable
from storage.premises import ledger_of


class Kept(NamedTuple):
    """What a backup holds: how many files of each, and which were gone before they could be copied."""

    blobs: int
    uploads: int
    gone: tuple[str, ...]


def backup(folders: Folders, target: Path) -> Kept:
    """Copy everything into a new folder. Raises: Unusable, OSError."""
    if target.exists():
        raise Unusable(f"{target} is there already; name a folder that is not.")
    ledger = ledger_of(folders)
    making = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    data = making / "data"
    data.mkdir(parents=True)
    try:
        names, files = _copy_ledger(ledger, data / ledger.name)
        uploads = [path.name for path in map(Path, files) if path.parent == folders.uploads]
        blobs_gone = [*_copy(folders.blobs, data / "blobs", names)]
        uploads_gone = [*_copy(folders.uploads, data / "uploads", uploads)]
        gone = [*blobs_gone, *uploads_gone]
        if folders.key.is_file():
            shutil.copy2(folders.key, data)
        if folders.voices.is_dir():
            gone += _copy_voices(folders.voices, making / "voices")
        _sync(making)
        making.replace(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return Kept(len(names) - len(blobs_gone), len(uploads) - len(uploads_gone), tuple(gone))


def _copy_ledger(ledger: Path, copy: Path) -> tuple[list[str], list[str]]:
    """Names of the blobs, and paths of the files, that it knows. Raises: Unusable."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{ledger.as_uri()}?mode=rw", uri=True)) as source,
            contextlib.closing(sqlite3.connect(copy)) as made,
        ):
            source.backup(made)
            made.execute("PRAGMA journal_mode=DELETE")  # one file, without others beside it
            return _names(made, "SELECT name FROM blobs"), _names(made, "SELECT path FROM files")
    except sqlite3.Error as exc:
        raise Unusable(f"{ledger} cannot be copied ({exc}); run .venv/bin/optivus doctor.") from exc


def _names(db: sqlite3.Connection, query: str) -> list[str]:
    return [name for (name,) in db.execute(query)]


def _copy(source: Path, to: Path, names: Iterable[str]) -> Iterator[str]:
    """Copies files; gives the names of those that are not there."""
    to.mkdir()
    for name in names:
        try:
            shutil.copy2(source / name, to / name)
        except FileNotFoundError:
            yield name


def _copy_voices(source: Path, to: Path) -> list[str]:
    """Copies saved voices; gives the names of what was deleted meanwhile. Raises: OSError."""
    try:
        shutil.copytree(source, to, ignore=shutil.ignore_patterns(".*"))
    except shutil.Error as exc:
        failed = {Path(path): reason for path, _, reason in exc.args[0]}
        for path, reason in failed.items():
            if path.exists():
                raise OSError(errno.EIO, reason, str(path)) from exc
        voices = {Path(*path.relative_to(source).parts[:2]) for path in failed}
        gone = sorted(str(voice) for voice in voices if not (source / voice).exists())
        for voice in gone:  # of which some may have been copied
            shutil.rmtree(to / voice, ignore_errors=True)
        return gone
    return []


def _sync(folder: Path) -> None:
    """All of it is on the disk, not only on its way there."""
    for path in (folder, *folder.rglob("*")):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
