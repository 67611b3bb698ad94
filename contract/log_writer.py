"""Writes log lines in a thread, so that a log that nobody reads (a stopped terminal, a full pipe) holds up no job."""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque

import orjson

MAX_LINES = 10_000
"""Most lines that wait; further ones are counted, not kept."""
LEAVE_SECONDS = 1.0
"""Seconds that the end of the process waits for the last lines to be read."""


class LogWriter:
    """A file of bytes for structlog. descriptor: where it writes.

    It goes around Python's buffer. A thread that is stuck in a write would still hold the buffer's lock when the
    interpreter ends.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: bytes) -> None:
        with self._news:
            if len(self._lines) < MAX_LINES:
                self._lines.append(line)
            else:
                self._dropped += 1
            self._news.notify()

    def flush(self) -> None:
        """Does nothing: the thread writes as fast as its reader reads."""

    def close(self) -> None:
        """Write the waiting lines, if somebody reads them."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(LEAVE_SECONDS)

    def _run(self) -> None:
        while lines := self._next():
            while lines:
                try:
                    lines = lines[os.write(self._descriptor, lines) :]
                except BlockingIOError:  # a program that shares the terminal or the pipe has made it so
                    select.select([], [self._descriptor], [])
                except OSError:  # who read them has gone
                    break

    def _next(self) -> bytes:
        """All waiting lines; none once the file is closed."""
        with self._news:
            self._news.wait_for(lambda: self._lines or self._dropped or self._closed)
            lines, dropped = b"".join(self._lines), self._dropped
            self._lines.clear()
            self._dropped = 0
        return lines + (orjson.dumps({"event": "lines_dropped", "count": dropped}) + b"\n" if dropped else b"")
