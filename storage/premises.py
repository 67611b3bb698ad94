"""What has to be so before a server works on its folders: they can be used, and nobody else works on them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from contract.folders import Folders
from storage.ledger import Unusable


class Busy(Exception):
    """Another server works on this DATA_DIR."""


def lock(folder: Path) -> TextIO:
    """Own a DATA_DIR for as long as the returned file is open. Raises: Busy, Unusable."""
    check(folder, "DATA_DIR", writable=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as exc:
        raise Unusable(f"DATA_DIR={folder} cannot be used: {exc.strerror}.") from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise Busy(f"Another Optivus server is running on {folder}; stop it, or set another DATA_DIR.") from exc
    return file


def ledger_of(folders: Folders) -> Path:
    """Of a server that has run; who asks in another folder than it runs in has none. Raises: Unusable."""
    if not folders.ledger.exists():
        raise Unusable(
            f"There is no ledger in DATA_DIR={folders.data}; run this where the server runs, with its settings."
        )
    return folders.ledger


def check_all(folders: Folders) -> None:
    """Every folder of the server but the locked one, and those in that. Raises: Unusable."""
    for folder in (folders.uploads, folders.blobs, folders.work, folders.models):
        check(folder, "DATA_DIR", writable=True)
    check(folders.voices, "VOICES_DIR")
    check(folders.speech, "FS_PATH")
    check(folders.downloads, "PATH_VIDEO")


def check(folder: Path, variable: str, writable: bool = False) -> None:
    """A folder is there, or can be made where it should be. Raises: Unusable, which names the variable.

    writable: one that is there must be so, too.
    """
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise Unusable(f"{variable}={folder} cannot be used: {there} is not a folder; name another, or move that away.")
    if (writable or there != folder) and not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise Unusable(
            f"{variable}={folder} cannot be used: the server may not write in {there}; give its user the right to, or "
            "name another folder."
        )


def in_container() -> bool:
    """Whether this process seems to be in one, where root is often nobody in particular."""
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        return True
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    return any(words[1:3] == ["/", "overlay"] for words in map(str.split, mounts))
