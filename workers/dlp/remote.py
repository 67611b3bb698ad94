"""A file at a URL, looked at without loading it: whether it is a recording, of what kind, and how long.

Servers often do not say: `application/octet-stream`, `text/plain`, no suffix. FFmpeg does, from the file's first bytes
and, where its index is at its end, from its last ones. All is read by yt-dlp's own requests, so the sandbox holds.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.networking import Request

from contract.errors import UnsupportedMedia
from media.container import Probe, opened_stream, probed

MAX_BYTES = 16 * 1024 * 1024
"""Most bytes that are read, and held in memory."""
MAX_REQUESTS = 6
_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")


def no_media() -> UnsupportedMedia:
    return UnsupportedMedia("What is at this URL is neither video nor audio.", reason="no_media")


def look_at(ydl: YoutubeDL, url: str, headers: dict[str, str]) -> Probe | None:
    """What is at a URL; None where that cannot be told from what may be read of it.

    Raises: UnsupportedMedia when it is no recording, and what yt-dlp does.
    """
    remote = _Remote(ydl, url, headers)
    try:
        if not remote.read(1):
            raise UnsupportedMedia("What is at this URL is empty.", reason="empty")
        remote.seek(0)
        with opened_stream(remote, lambda _: no_media()) as container:
            return probed(container)
    except UnsupportedMedia:
        if remote.cut_short:
            return None
        raise
    finally:
        remote.close()


class _Part:
    """What one request has given so far, from `start` on."""

    def __init__(self, start: int, response: Any) -> None:
        self.start = start
        self.data = bytearray()
        self.response = response

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def grow(self, size: int) -> bool:
        """Read on. Returns whether there was more."""
        more = self.response.read(size)
        self.data += more
        return bool(more)


class _Remote:
    """A file for FFmpeg. cut_short: whether it wanted more than may be read."""

    def __init__(self, ydl: YoutubeDL, url: str, headers: dict[str, str]) -> None:
        self.cut_short = False
        self._ydl = ydl
        self._url = url
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._place = 0
        self._left = MAX_BYTES
        self._parts = [self._request(0)]
        answer = self._parts[0].response
        whole = _RANGE.match(answer.headers.get("Content-Range") or "")
        self._ranges = whole is not None
        length = whole[1] if whole else answer.headers.get("Content-Length")
        self._size = int(length) if length and length.isdecimal() else None

    def read(self, size: int) -> bytes:
        part = self._part()
        while part is not None and part.end <= self._place:
            wanted = min(max(size, 1 << 15), self._left)
            if not wanted:
                self.cut_short = True
                return b""
            before = part.end
            if not part.grow(wanted):
                return b""
            self._left -= part.end - before
        if part is None:
            return b""
        found = bytes(part.data[self._place - part.start :][:size])
        self._place += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._place, 2: self._size}.get(whence)
        if base is None or base + offset < 0:
            return -1  # to FFmpeg an error
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        for part in self._parts:
            with suppress(OSError):
                part.response.close()

    def _part(self) -> _Part | None:
        """The part that holds the place or ends there. A server without ranges gives one part, which grows up to it."""
        if self._size is not None and self._place >= self._size:
            return None
        for part in self._parts:
            if part.start <= self._place <= part.end:
                return part
        if not self._ranges and self._place - self._parts[0].end < self._left:
            return self._parts[0]
        if not self._ranges or len(self._parts) == MAX_REQUESTS:
            self.cut_short = True
            return None
        self._parts.append(self._request(self._place))
        return self._parts[-1]

    def _request(self, start: int) -> _Part:
        response = self._ydl.urlopen(Request(self._url, headers={**self._headers, "Range": f"bytes={start}-"}))
        return _Part(start, response)
