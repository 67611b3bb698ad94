"""The bytes of a stranger's file on their way to FFmpeg, which may have to stop at its head.

    read() ─▶ counted while the file is opened ─▶ FFmpeg
                ├▶ marks of more tags than it takes in: Heavy ─▶ opened by the ffmpeg program first, for a while;
                │                                                a recording that is still being sent is refused
                └▶ more work than any head needs: refused

FFmpeg compares each tag and each chapter with all before it, after it has read them: a megabyte of tags costs minutes
within one call. What is to become a tag passes here first.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable
from pathlib import Path

from contract.errors import UnsupportedMedia

MOST_TAGS = 4_000
"""Reading so many takes a tenth of a second."""
MOST_SECONDS = 3.0
"""Of a processor's time, for opening a file. Films of ten hours need a tenth of it."""

_MARKS: dict[bytes, tuple[bytes, ...]] = {
    b"fLaC": (b"=",),
    b"OggS": (b"=",),
    b"ID3": (b"=", b"T", b"COM", b"ULT", b"USLT", b"PRIV", b"CHAP"),  # frames' names; what follows may be a flac
    b"\x1a\x45\xdf\xa3": (b"=", b"\x67\xc8", b"\x73\xc4"),  # Matroska's SimpleTag and ChapterUID; a flac's own tags
}
"""What tags have in them, by how a file begins, where FFmpeg reads them as a whole before it works on them. Other
containers' are read and worked on in turns, for which the clock suffices."""


class Heavy(Exception):
    """A file has the marks of so many tags that opening it may cost minutes."""


def too_heavy() -> UnsupportedMedia:
    return UnsupportedMedia(
        "This file begins with more tags, chapters or other entries than any recording needs; remove them and send it "
        "again.",
        field="file",
    )


class Head:
    """What FFmpeg reads to open a file. begin: the file's first bytes; none, where no marks are to be counted.

    The clock is that of the thread that opens it.
    """

    def __init__(self, begin: bytes) -> None:
        marks = next((marks for first, marks in _MARKS.items() if begin.startswith(first)), ())
        self._counts = dict.fromkeys(marks, 0)
        self._given_up = False
        self._until: float | None = time.thread_time() + MOST_SECONDS

    def opened(self) -> None:
        """What is read from now on is the recording."""
        self._until = None

    def passed(self, read: Callable[[], bytes]) -> bytes:
        """The next bytes; none once it was given up, since FFmpeg does not stop at once.

        Raises: Heavy, UnsupportedMedia.
        """
        if self._given_up:
            return b""
        data = read()
        if self._until is not None:
            try:
                self._check(data, self._until)
            except (Heavy, UnsupportedMedia):
                self._given_up = True
                raise
        return data

    def _check(self, data: bytes, until: float) -> None:
        if time.thread_time() > until:
            raise too_heavy()
        for mark in self._counts:
            self._counts[mark] += data.count(mark)
            if self._counts[mark] > MOST_TAGS:
                raise Heavy


class Reader(io.BufferedReader):
    """A file in which FFmpeg may seek to places that do not exist, as damaged indexes make it do.

    counted: whether marks of tags are counted.
    """

    def __init__(self, path: Path, *, counted: bool = True) -> None:
        super().__init__(io.FileIO(path))
        self.head = Head(self.peek(4) if counted else b"")

    def read(self, size: int | None = -1) -> bytes:
        return self.head.passed(lambda: super(Reader, self).read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            return -1  # to FFmpeg an error, from which some demuxers go on
