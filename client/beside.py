"""`optivus transcribe FOLDER --format srt`: transcripts as files beside their sources, and which are missing.

    FILE and FOLDER… ─▶ media files, sorted ─▶ Task: a source and the files to be made of it ─▶ transcribed ─▶ written
                                           └─▶ done already: the files are there and no older than the source
                                           └─▶ refused, with the reason: something else is in the way

What is there is replaced only by `--overwrite`, so stopping a run and starting it again goes on where it stopped. A
file appears whole or not at all. Sources are only read.
"""

from __future__ import annotations

import collections
import dataclasses
import mimetypes
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .writing import appearing

FORMATS = ("srt", "vtt", "ass", "txt", "tsv")
"""What the server writes, which are also the endings of the files."""
_MADE = tuple(f".{name}" for name in FORMATS)

_NO_SOUND = frozenset({"audio/midi", "audio/x-mpegurl", "audio/mpegurl", "audio/x-scpls"})
"""Notes and playlists."""
_TYPES = mimetypes.MimeTypes()  # the standard library's own list, the same on every machine, and what it lacks
for _ending in (".aac", ".ac3", ".amr", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".oga", ".ogg", ".opus", ".wma"):
    _TYPES.add_type("audio/x-of-some-kind", _ending)
for _ending in (".flv", ".m2ts", ".m4v", ".mkv", ".mpg", ".mts", ".mxf", ".ogv", ".vob", ".wmv"):
    _TYPES.add_type("video/x-of-some-kind", _ending)


class Refused(Exception):
    """A sentence about a file or folder that is left as it is."""


Refuse = Callable[[str, Exception], None]
"""Told what stays undone, and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """source: as it was named or found. targets: by format, the files to be made."""

    source: str
    targets: Mapping[str, Path]


def is_media(name: str) -> bool:
    """Whether a file's name has an ending of sound or film."""
    kind, packed = _TYPES.guess_type(name)
    if kind is None or packed or kind in _NO_SOUND or name.lower().endswith(_MADE):  # .ass is a rare name of AAC too
        return False
    return kind.startswith(("audio/", "video/"))


def media_files(name: str) -> list[str]:
    """`name` itself if it is no folder; else the media files in it and in its folders, sorted.

    What is hidden, and what linked folders hold, is left out. Raises: OSError for a folder that cannot be read,
    Refused when there is nothing.
    """
    if not Path(name).is_dir():
        return [name]
    found = []
    for folder, folders, files in os.walk(name, onerror=_raise):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        found += [
            str(path)
            for file in files
            if not file.startswith(".") and is_media(file) and (path := Path(folder) / file).is_file()
        ]
    if not found:
        raise Refused("no audio or video file is in this folder.")
    return sorted(found)


def _raise(exc: OSError) -> None:
    raise exc


class Beside:
    """Which files stand beside which source, for the sources of one run.

    sources: each once, as it was first named. Two that differ in their ending only (`talk.mp3`, `talk.mp4`) keep
    it: `talk.mp3.srt`, `talk.mp4.srt`.
    """

    def __init__(self, sources: Sequence[str], formats: Sequence[str], *, overwrite: bool) -> None:
        self._formats = formats
        self._overwrite = overwrite
        self._places: dict[Path, str] = {}
        for source in sources:
            self._places.setdefault(_place(source), source)
        self._stems = collections.Counter(place.with_suffix("") for place in self._places)
        self.sources = list(self._places.values())

    def task(self, source: str) -> Task | None:
        """What is to be made of a source; None when it is there already. Raises: Refused, OSError."""
        beside = Path(source)
        written = beside.stat().st_mtime_ns
        place = _place(source)
        whole = self._stems[place.with_suffix("")] > 1
        targets = {}
        for name in self._formats:
            target = beside.with_name(f"{beside.name}.{name}") if whole else beside.with_suffix(f".{name}")
            if _place(str(target)) in self._places or (target.exists() and target.samefile(beside)):
                raise Refused(f"{target.name} is a source itself; move it away or choose another format.")
            if self._overwrite or not os.path.lexists(target):
                targets[name] = target
            elif not target.is_file() or target.stat().st_mtime_ns < written:
                raise Refused(f"{target.name} is in the way and older than its source; --overwrite replaces it.")
        if targets and not os.access(beside.parent, os.W_OK):
            raise Refused(f"nothing can be written beside it; make the folder {beside.parent} writable.")
        return Task(source, targets) if targets else None

    def write(self, task: Task, exports: Mapping[str, str]) -> None:
        """Put each text where it belongs. Raises: Refused, OSError."""
        for name, target in task.targets.items():
            if not self._overwrite and os.path.lexists(target):
                raise Refused(f"{target.name} has come to be meanwhile; --overwrite replaces it.")
            with appearing(target) as path:
                path.write_text(exports[name], encoding="utf-8", newline="\n")


def _place(name: str) -> Path:
    """A file's place: its folder with links resolved, and its own name."""
    path = Path(name)
    return path.parent.resolve() / path.name


def sources_of(names: Sequence[str], refuse: Refuse) -> list[str]:
    """The files that FILE and FOLDER names mean, in order."""
    found: list[str] = []
    for name in names:
        try:
            found += media_files(name)
        except (OSError, Refused) as exc:
            refuse(name, exc)
    return found


def missing(beside: Beside, refuse: Refuse) -> tuple[dict[str, Task], int]:
    """What is to be done, by source, and how many sources are done already."""
    todo, done = {}, 0
    for source in beside.sources:
        try:
            task = beside.task(source)
        except (OSError, Refused) as exc:
            refuse(source, exc)
            continue
        if task is None:
            done += 1
        else:
            todo[source] = task
    return todo, done


class Files:
    """Where the transcripts of these tasks go: into their files."""

    live = False

    def __init__(self, beside: Beside, tasks: Mapping[str, Task]) -> None:
        self._beside = beside
        self._tasks = tasks

    def params(self, name: str) -> dict[str, Any]:
        return {"formats": list(self._tasks[name].targets)}

    def write(self, name: str, answer: dict[str, Any], texts: list[str]) -> None:
        """Raises: Refused, OSError."""
        exports = answer["transcribe_audio"].get("exports")
        if exports is None:
            raise Refused("the server is too old to write these formats.")
        self._beside.write(self._tasks[name], exports)
