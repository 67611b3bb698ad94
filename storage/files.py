"""Which file a client's `file` means, and whether it may be read: the only place where a reference becomes a path.

Called twice for each file: at the door, so that a misspelt path is answered at once and not after an hour in a queue,
and in the worker right before it opens the file, since the file may have changed in between.

    client's string ─▶ bind() ─▶ FileRef ─▶ (ledger, queue, pipe) ─▶ local() ─▶ path
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from contract.errors import FileForbidden, FileNotFound, InvalidInput
from contract.folders import Folders
from contract.messages import FILE_ID, FileRef

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
    _check_regular(path, text)
    return FileRef("made" if made else "path", str(path), Path(text).name)


def local(ref: FileRef, folders: Folders) -> Path:
    """The path of a reference, checked again.

    Raises: FileForbidden, FileNotFound, InvalidInput, as `bind_path` does.
    """
    if ref.kind == "upload":
        path = folders.uploads / ref.value
        if not FILE_ID.fullmatch(ref.value) or not path.is_file():
            raise FileNotFound("This upload is no longer on the server; upload the file again.", field="file")
        return path
    path = _resolve(Path(ref.value))
    if ref.kind == "made" and not _made(path, folders):
        raise FileForbidden("This file does not lie where the server keeps what it made.", field="file")
    if ref.kind == "path" and not _allowed(path, folders):
        raise FileForbidden("This path now leads out of the folders that MEDIA_ROOTS allows.", field="file")
    _check_regular(path, ref.name)
    return path


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


def _check_regular(path: Path, named: str) -> None:
    """named: the path as the client wrote it, the only form that an answer may repeat."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FileNotFound(f"There is no file {named!r} on the server.", field="file") from exc
    except PermissionError as exc:
        raise FileForbidden(f"The server's user may not read {named!r}.", field="file") from exc
    except OSError as exc:
        raise FileNotFound(f"The file {named[:200]!r} cannot be reached on the server.", field="file") from exc
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"{named!r} is a folder; send the path of one file.", field="file")
    if not stat.S_ISREG(mode):
        raise InvalidInput(f"{named!r} is not a regular file; send audio or video as a file.", field="file")
