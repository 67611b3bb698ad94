"""Paths that change while they are read: a file, then a link to a secret, a pipe, a folder, and a file again."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs openat2 or /proc/self/fd")

PUBLIC = b"public"
SECRET = b"the secret"
REFUSED = {"FILE_NOT_FOUND", "FILE_FORBIDDEN", "INVALID_INPUT"}
"""Codes of what is refused at a path."""
AT_ONCE = 4


class Flipped:
    """path: what changes. changes: how often it has."""

    def __init__(self, path: Path, secret: Path) -> None:
        """Lays PUBLIC down at `path`. secret: outside the roots; holds SECRET, also by the last two names of `path`."""
        self.path = path
        self.changes = 0
        self._file = secret.parent / "public"
        self._secret = secret
        self._new = path.with_name("new")
        self._aside = path.parent.with_name(f"{path.parent.name} aside")
        same = secret.parent / path.parent.name / path.name
        for folder in (path.parent, same.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for file in (secret, same):
            file.write_bytes(SECRET)
        self._file.write_bytes(PUBLIC)
        self._lay(self._put_file)

    def _lay(self, make: Callable[[], None]) -> None:
        """In one rename, so that there is always something."""
        make()
        self._new.replace(self.path)
        self._new.unlink(missing_ok=True)  # a rename to what is the same file already does nothing

    def _put_file(self) -> None:
        os.link(self._file, self._new)

    def _put_link(self) -> None:
        self._new.symlink_to(self._secret)

    def _put_pipe(self) -> None:
        os.mkfifo(self._new)

    def _put_folder(self) -> None:
        self.path.unlink()
        self.path.mkdir()
        self.path.rmdir()

    def _lead_away(self) -> None:
        """Its folder is a link to another in which there is a file of its name."""
        self.path.parent.rename(self._aside)
        self.path.parent.symlink_to(self._secret.parent / self.path.parent.name)
        self.path.parent.unlink()
        self._aside.rename(self.path.parent)

    def _flip(self, over: threading.Event) -> None:
        """Mostly with a link, by which most could be read."""
        link, pipe = partial(self._lay, self._put_link), partial(self._lay, self._put_pipe)
        turns: tuple[Callable[[], None], ...] = (*[link] * 6, pipe, self._put_folder, self._lead_away)
        for turn, calls in zip(itertools.cycle(turns), itertools.cycle(range(20))):
            if over.is_set():
                break
            turn()
            self._lay(self._put_file)
            self.changes += 1
            for _ in range(calls):  # as long as a look at it takes, more or less
                self._secret.stat()

    @contextmanager
    def flipping(self) -> Iterator[None]:
        """Another thread changes it all the time; in the end it is a file."""
        over = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            flips = threads.submit(self._flip, over)
            try:
                yield
            finally:
                over.set()
                flips.result()


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work gives; it fails where that hangs."""
    given: list[T] = []
    thread = threading.Thread(target=lambda: given.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return given[0]


async def answers(times: int, ask: Callable[[], Awaitable[Any]]) -> Counter[Any]:
    """So many, a few at once."""
    found: Counter[Any] = Counter()

    async def some() -> None:
        for _ in range(times // AT_ONCE):
            found[await ask()] += 1

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return found
