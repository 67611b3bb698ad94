"""What becomes of a finished download: the item that the client sees, and a file with a name of its own.

A file comes into the server's folder whole or not at all. Its name carries its task's, so that no two tasks meet, and
an attempt after a crash finds and replaces what the one before it left.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.workdirs import half as half_of

if TYPE_CHECKING:
    from workers.dlp.fetch import Found

FIELDS = ("uploader", "duration", "view_count", "like_count", "fulltitle", "description")
"""Keys that an item always has; null where the source does not say."""
MORE_FIELDS = (
    "dislike_count",
    "repost_count",
    "comment_count",
    "average_rating",
    "age_limit",
    "media_type",
    "tags",
    "categories",
)
"""Keys that an item has when the source gives them."""

MAX_TEXT = 20_000
MAX_LIST = 200
MAX_NAME_BYTES = 120
COPY_BYTES = 4 * 1024 * 1024


def item(url: str, found: Found, file: str | None) -> dict[str, Any]:
    """One item of the answer's `data`, from what yt-dlp knows; texts and lists of a reasonable length."""
    info = {"fulltitle": found.info.get("title"), **found.info}
    body: dict[str, Any] = {field: _plain(info.get(field)) for field in FIELDS}
    body |= {"file": file, "url": url}
    body |= {field: _plain(info[field]) for field in MORE_FIELDS if info.get(field) not in (None, [])}
    if found.source is not None:
        listed = [
            {"url": _plain(entry.get("url") or entry.get("webpage_url")), "fulltitle": _plain(entry.get("title"))}
            for entry in found.entries
        ]
        count = found.source.get("playlist_count") or len(listed)
        body |= {"playlist": {"title": _plain(found.source.get("title")), "count": count}, "entries": listed}
    return body


def _plain(value: Any) -> Any:
    """A value as JSON carries it."""
    if isinstance(value, str):
        return value[:MAX_TEXT].encode(errors="replace").decode()
    if isinstance(value, (list, tuple)):
        return [_plain(str(one)[:MAX_LIST]) for one in value[:MAX_LIST]]
    return value if isinstance(value, (int, float)) else None


def safe(title: str) -> str:
    """A title as part of a file's name: letters and digits of any script, dots and dashes."""
    name = re.sub(r"[^\w.-]+", "_", title).encode(errors="ignore")[:MAX_NAME_BYTES].decode(errors="ignore")
    return name.strip("._-") or "video"


def keep(path: Path, folder: Path, title: str, key: str, check: Callable[[], None]) -> Path:
    """Move a finished file into the server's folder. check: raises when the task has been cancelled meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    discard(folder, key)
    target = folder / f"{safe(title)}-{_own(key)}{path.suffix.lower()}"
    _flush(path)
    try:
        path.replace(target)
    except OSError:  # the folder is on another disk
        half = half_of(folder, key)
        try:
            _copy(path, half, check)
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)
    return target


def discard(folder: Path, key: str) -> None:
    """Delete whatever a task has put into the folder."""
    for left in folder.glob(f"*{_own(key)}*"):
        left.unlink(missing_ok=True)


def _own(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:20]


def _copy(source: Path, target: Path, check: Callable[[], None]) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(COPY_BYTES):
            check()
            writing.write(piece)
        writing.flush()
        os.fsync(writing.fileno())
    shutil.copystat(source, target)


def _flush(path: Path) -> None:
    """Sync a file to the disk, before the ledger says that it is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
