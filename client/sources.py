"""What a command is given to work on: files of this machine, standard input, and URLs."""

from __future__ import annotations

import argparse
import io
import os
import re
import select
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .aio import AsyncClient
from .console import cancelled_with_us, followed, new_bar, say, visible
from .errors import OptivusError
from .web import PIECE

STDIN = "-"
TITLE_COLUMNS = 30


def is_url(name: str) -> bool:
    """Whether a source is behind a URL."""
    return re.match(r"https?://", name, re.IGNORECASE) is not None


def check_stdin(args: argparse.Namespace, names: list[str]) -> None:
    """Refuse, as wrong use, sources that cannot be read from standard input."""
    if STDIN not in names:
        return
    if names.count(STDIN) > 1:
        args.refuse("standard input can be read once; name - once")
    if sys.stdin is None:
        args.refuse("standard input is closed, so nothing can be read from it")
    if sys.stdin.isatty():
        args.refuse("- reads a file from standard input, as in: optivus … - < talk.mp3")


def titles_of(names: list[str]) -> list[str]:
    """The sources' titles for bars, short enough that a bar has room beside them."""
    titles = [_title(name) for name in names]
    return titles if len(names) == 1 else [f"{at}/{len(names)} {title}" for at, title in enumerate(titles, 1)]


def _title(name: str) -> str:
    if is_url(name):
        parts = urlsplit(name)
        name = parts.path.rstrip("/").rpartition("/")[2] or parts.netloc
    title = "standard input" if name == STDIN else visible(Path(name).name)
    half = TITLE_COLUMNS // 2
    return title if len(title) <= TITLE_COLUMNS else f"{title[:half]}…{title[1 - half :]}"


def say_failed(name: str, exc: Exception) -> None:
    """Print what went wrong with a source."""
    say(f"{name}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}")


async def at_server(client: AsyncClient, name: str, title: str) -> tuple[str, dict[str, Any] | None]:
    """Bring a source to the server: what a message says for it and, from a URL, what ``dlp`` knows about it.

    Raises: OSError, OptivusError, ServerUnreachable.
    """
    if is_url(name):
        return await _downloaded(client, name, title)
    with byte_bar(title) as bar:
        if name != STDIN:
            return await client.upload(name, partial(sent, bar)), None
        with StandardInput() as file:
            return await client.upload(file, partial(sent, bar)), None


async def _downloaded(client: AsyncClient, url: str, title: str) -> tuple[str, dict[str, Any]]:
    async with cancelled_with_us(url, client.submit("dlp", urls=[url])) as job:
        [item] = (await followed(job, title))["data"]
    check_element(item)
    return str(item["file"]), item


class StandardInput(io.RawIOBase):
    """Standard input, read in another thread, which is let go when this is closed and nothing more comes."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._closing, self._closed = os.pipe()

    def read(self, size: int = -1, /) -> bytes:
        if size == 0:
            return b""
        if sys.platform != "win32":
            ready, _, _ = select.select([self._input, self._closing], [], [])
            if self._closing in ready:
                return b""
        return os.read(self._input, size if size > 0 else PIECE)

    def close(self) -> None:
        if not self.closed:
            os.close(self._closed)  # `_closing` is ready now; it stays open, since it may be waited for
        super().close()


def check_element(element: dict[str, Any]) -> None:
    """Raises: OptivusError for an element of an answer's list that is an error in its place."""
    if "error_code" in element:
        raise OptivusError(str(element.get("message", "")), str(element["error_code"]), element.get("details"))


def byte_bar(title: str) -> Any:
    """A bar in bytes, for `sent`."""
    return new_bar(desc=title, unit="B", unit_scale=True, unit_divisor=1024)


def sent(bar: Any, done: int, total: int) -> None:
    """Move a bar in bytes."""
    bar.total = total or None
    bar.update(done - bar.n)
