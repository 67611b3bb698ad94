"""`optivus transcribe FOLDER --format srt`: transcripts as files beside their sources, and which are missing.

    FILE and FOLDER… ─▶ media files, sorted ─▶ Wanted: a source and the files to be made of it ─▶ transcribed ─▶ written
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
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .sources import STDIN, is_url
from .writing import appearing

FORMATS = ("srt", "vtt", "ass", "txt", "tsv")
"""Formats that the server writes; each is also the ending of its files."""
_LANGUAGE = r"[a-z]{2,3}(?:-\w+)?"
_MADE = tuple(f".{name}" for name in FORMATS)

_NO_SOUND = frozenset({"audio/midi", "audio/x-mpegurl", "audio/mpegurl", "audio/x-scpls"})
"""Types that `mimetypes` counts as sound, but that are notes and playlists."""
_TYPES = mimetypes.MimeTypes()  # the standard library's own list, the same on every machine, and what it lacks
for _ending in (".aac", ".ac3", ".amr", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".oga", ".ogg", ".opus", ".wma"):
    _TYPES.add_type("audio/x-of-some-kind", _ending)
for _ending in (".flv", ".m2ts", ".m4v", ".mkv", ".mpg", ".mts", ".mxf", ".ogv", ".vob", ".wmv"):
    _TYPES.add_type("video/x-of-some-kind", _ending)


class Refused(Exception):
    """A sentence about a file or folder that is left as it is."""


Refuse = Callable[[str, Exception], None]
"""Called with a source that stays undone, and the reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
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

    language: None, or that files are to be called by it (`talk.en.srt`): the one that is known, or "" for whichever
    the text turns out to be in; then a file of any language counts as there.
    sources: each once, as it was first named. Two that differ in their ending only (`talk.mp3`, `talk.mp4`) keep
    it: `talk.mp3.srt`, `talk.mp4.srt`.
    """

    def __init__(
        self, sources: Sequence[str], formats: Sequence[str], *, overwrite: bool, language: str | None = None
    ) -> None:
        self._formats = formats
        self._overwrite = overwrite
        self._language = language
        self._places: dict[Path, str] = {}
        for source in sources:
            self._places.setdefault(_place(source), source)
        self._stems = collections.Counter(place.with_suffix("") for place in self._places)
        self.sources = list(self._places.values())

    def wanted(self, source: str) -> Wanted | None:
        """What is to be made of a source; None when it is there already. Raises: Refused, OSError."""
        beside = Path(source)
        written = beside.stat().st_mtime_ns
        place = _place(source)
        whole = self._stems[place.with_suffix("")] > 1
        targets = {}
        for name in self._formats:
            target = beside.with_name(f"{beside.name}.{name}") if whole else beside.with_suffix(f".{name}")
            there = self._there(target)
            if _place(str(there)) in self._places or (there.exists() and there.samefile(beside)):
                raise Refused(f"{there.name} is a source itself; move it away or choose another format.")
            if self._overwrite or not os.path.lexists(there):
                targets[name] = target
            elif not there.is_file() or there.stat().st_mtime_ns < written:
                raise Refused(f"{there.name} is in the way and older than its source; --overwrite replaces it.")
        if targets and not os.access(beside.parent, os.W_OK):
            raise Refused(f"nothing can be written beside it; make the folder {beside.parent} writable.")
        return Wanted(source, targets) if targets else None

    def write(self, wanted: Wanted, exports: Mapping[str, str], language: str) -> list[Path]:
        """Put each text where it belongs. Returns the files. Raises: Refused, OSError."""
        targets = {name: self._called(target, self._language or language) for name, target in wanted.targets.items()}
        for name, target in targets.items():
            if not self._overwrite and os.path.lexists(target):
                raise Refused(f"{target.name} has come to be meanwhile; --overwrite replaces it.")
            if _place(str(target)) in self._places:
                raise Refused(f"{target.name} is a source itself; move it away or choose another format.")
            with appearing(target) as path:
                path.write_text(exports[name], encoding="utf-8", newline="\n")
        return list(targets.values())

    def _called(self, target: Path, language: str) -> Path:
        """The target's name, with the language in it where the run wants that."""
        return target if self._language is None else target.with_name(f"{target.stem}.{language}{target.suffix}")

    def _there(self, target: Path) -> Path:
        """The targets' names; while the language is unknown, the files of any language that are there."""
        if self._language != "":
            return self._called(target, self._language or "")
        name = re.compile(rf"{re.escape(target.stem)}\.{_LANGUAGE}{re.escape(target.suffix)}")
        found = sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))
        return found[0] if found else self._called(target, "language")


def _place(name: str) -> Path:
    """A file's place: its folder with links resolved, and its own name."""
    path = Path(name)
    return path.parent.resolve() / path.name


def sources_of(names: Sequence[str], refuse: Refuse) -> list[str]:
    """The media files that FILE and FOLDER arguments name, in order."""
    found: list[str] = []
    for name in names:
        try:
            found += [name] if name == STDIN or is_url(name) else media_files(name)
        except (OSError, Refused) as exc:
            refuse(name, exc)
    return found


def missing(beside: Beside, refuse: Refuse) -> tuple[dict[str, Wanted], int]:
    """What is to be done, by source, and how many sources are done already."""
    todo, done = {}, 0
    for source in beside.sources:
        try:
            wanted = beside.wanted(source)
        except (OSError, Refused) as exc:
            refuse(source, exc)
            continue
        if wanted is None:
            done += 1
        else:
            todo[source] = wanted
    return todo, done


class Files:
    """Where the transcripts of these sources go: into their files. written: those that are there now."""

    live = False

    def __init__(self, beside: Beside, wanted: Mapping[str, Wanted]) -> None:
        self.written: list[Path] = []
        self._beside = beside
        self._wanted = wanted

    def params(self, name: str) -> dict[str, Any]:
        return {"formats": list(self._wanted[name].targets)}

    def write(self, name: str, answer: dict[str, Any], texts: list[str]) -> None:
        """Raises: Refused, OSError."""
        language = answer["transcribe_audio"].get("language") or "und"
        self.written += self._beside.write(self._wanted[name], exports_of(answer), language)


def exports_of(answer: dict[str, Any]) -> dict[str, str]:
    """A transcript's texts by format. Raises: Refused."""
    exports: dict[str, str] | None = answer["transcribe_audio"].get("exports")
    if exports is None:
        raise Refused("the server is too old to write these formats.")
    return exports
