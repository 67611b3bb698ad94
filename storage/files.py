"""Which file a client's `file` means, and whether it may be read: the only place where a reference becomes a file.

Asked twice for each file: at the door, so that a misspelt path is answered at once and not after an hour in a queue,
and in the worker, which counts: what a path leads to may change at any time, even between a look and the next, so
there the path is resolved, judged, and opened without following a link any more.

    client's string ─▶ bind_path() ─▶ FileRef ─▶ (ledger, queue, pipe) ─▶ opened() ─▶ Opened ─▶ its path
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from contract.errors import FileForbidden, FileNotFound, InvalidInput
from contract.folders import Folders
from contract.messages import FILE_ID, FileRef
from storage.opening import Opened
from storage.records import FileRecord

MAX_PATH_BYTES = 4096
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def bind_path(text: str, folders: Folders, owns: Callable[[Path], bool]) -> FileRef:
    """The reference to a client's path.

    text: absolute, or relative to any media root (the first that holds it).
    owns: whether the client's owner owns a file that the server made.
    Raises: InvalidInput, FileForbidden (outside the roots, whether or not it exists), FileNotFound.
    """
    if _URL.match(text):
        raise InvalidInput(
            "A URL is no 'file'. Send it in 'urls': of a 'video' for what is said and seen there, of a 'dlp' to "
            "download it; the 'file' in the answer of 'dlp' can be sent on.",
            field="file",
        )
    if not 1 <= len(text.encode(errors="replace")) <= MAX_PATH_BYTES or "\0" in text or not is_unicode(text):
        raise InvalidInput(f"'file' must be a path of 1 to {MAX_PATH_BYTES} bytes without NUL.", field="file")
    paths = [_resolve(root / text) for root in folders.roots]
    inside = [path for path in paths if _allowed(path, folders) or _made(path, folders)]
    if not inside:
        raise FileForbidden(
            "This path is not under the server's media folders; its operator sets them in MEDIA_ROOTS. "
            "Upload the file instead, or send a path under one of them.",
            field="file",
        )
    path = next((path for path in inside if os.path.lexists(path)), inside[0])
    made = _made(path, folders)
    if made and not owns(path):
        raise FileNotFound(f"There is no file {text!r} on the server.", field="file")
    _regular(path, text).close()
    return FileRef("made" if made else "path", str(path), Path(text).name)


def kept_as(row: FileRecord, folders: Folders) -> FileRef:
    """The reference to a file that the server keeps."""
    uploaded = Path(row.path).parent == folders.uploads
    return FileRef("upload", row.id, row.name) if uploaded else FileRef("made", row.path, row.name)


def opened(ref: FileRef, folders: Folders) -> Opened:
    """The regular file that a reference means now.

    Raises: FileForbidden, FileNotFound, InvalidInput, as `bind_path` does.
    """
    if ref.kind == "upload":
        return _upload(ref.value, folders)
    path = Path(ref.value)
    if ref.kind == "made" and not _made(path, folders):
        raise FileForbidden("This file does not lie where the server keeps what it made.", field="file")
    if ref.kind == "path":
        path = _resolve(path)
        if not _allowed(path, folders) or _made(path, folders):
            raise FileForbidden("This path now leads out of the folders that MEDIA_ROOTS allows.", field="file")
    return _regular(path, ref.name)


class TaskFiles:
    """The files that one task reads, each opened once and held until the task ends."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._opened: dict[FileRef, Opened] = {}

    def path(self, ref: FileRef) -> Path:
        """`Context.local`."""
        with self._lock:
            if ref not in self._opened:
                self._opened[ref] = opened(ref, self._folders)
            return self._opened[ref].path

    def close(self) -> None:
        """Let go of them all: their paths name nothing any more."""
        with self._lock:
            for file in self._opened.values():
                file.close()
            self._opened.clear()


def is_unicode(text: str) -> bool:
    """Without lone surrogates, which stand for bytes that are no text and cannot be stored as such."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _resolve(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except OSError as exc:  # a component longer than the file system allows
        raise FileNotFound(f"There is no file {path.name[:80]!r} on the server.", field="file") from exc


def _allowed(path: Path, folders: Folders) -> bool:
    return any(path.is_relative_to(root) for root in folders.roots) and not any(
        path.is_relative_to(folder) for folder in folders.hidden
    )


def _made(path: Path, folders: Folders) -> bool:
    return any(path.is_relative_to(folder) for folder in folders.made)


def _upload(file_id: str, folders: Folders) -> Opened:
    if FILE_ID.fullmatch(file_id):
        with suppress(OSError):
            file = Opened(folders.uploads / file_id)
            if stat.S_ISREG(file.mode):
                return file
    raise FileNotFound("This upload is no longer on the server; upload the file again.", field="file")


def _regular(path: Path, named: str) -> Opened:
    """The regular file at a resolved path. named: as the client wrote it, the only form that an answer may repeat."""
    try:
        file = Opened(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FileNotFound(f"There is no file {named!r} on the server.", field="file") from exc
    except PermissionError as exc:
        raise FileForbidden(f"The server's user may not read {named!r}.", field="file") from exc
    except OSError as exc:
        raise _unreachable(named) from exc
    mode = file.mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    if stat.S_ISLNK(mode):
        raise _unreachable(named)
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"{named!r} is a folder; send the path of one file.", field="file")
    raise InvalidInput(f"{named!r} is not a regular file; send audio or video as a file.", field="file")


def _unreachable(named: str) -> FileNotFound:
    """Of links that lead in circles, and of those that came while the file was looked for."""
    return FileNotFound(f"The file {named[:200]!r} cannot be reached on the server.", field="file")
