"""What the commands share: sentences and bars on standard error, and a job that ends when its command does."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from .events import Progress
from .job import AsyncJob, held

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
"""Joiners: control characters (category Cf) like those that are escaped, but part of Persian words and of emoji."""


def visible(text: str) -> str:
    """`text` with what a terminal would obey and not show written as escapes; it may come from anybody."""
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in _OBEYED and letter not in _JOINERS else letter
        for letter in text
    )


def say(sentence: str) -> None:
    """A sentence on standard error, above the bar if there is one."""
    try:
        tqdm.write(visible(sentence), file=sys.stderr)
    except OSError:  # a terminal that was closed; what is under way, or is being cancelled, goes on without a reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def new_bar(**shape: Any) -> Any:
    """A bar on standard error. It vanishes when it is done, and is not drawn where nobody sees it."""
    return tqdm(file=sys.stderr, disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True, **shape)


def percent_bar(title: str) -> Any:
    """A bar from 0 to 1, for `move`."""
    return new_bar(desc=title, total=1.0, bar_format="{l_bar}{bar}| {elapsed}{postfix}")


def move(bar: Any, title: str, progress: Progress) -> None:
    """A `percent_bar` to where the job is, with the server's estimate."""
    bar.set_description(f"{title}: {visible(progress.stage)}" if progress.stage else title, refresh=False)
    if progress.eta is not None:
        bar.set_postfix_str(f"{tqdm.format_interval(progress.eta)} left", refresh=False)
    bar.n = max(bar.n, progress.fraction or 0.0)
    bar.refresh()


async def followed(job: AsyncJob, title: str) -> dict[str, Any]:
    """A job's answer, with a bar in percent while it runs. Raises: as `AsyncJob.result`."""
    with percent_bar(title) as bar:
        async for event in job.events():
            if isinstance(event, Progress):
                move(bar, title, event)
    return await job.result()


def shown(text: str) -> str:
    """`text` for standard output: as it is, or `visible` where that is a terminal."""
    return visible(text) if sys.stdout.isatty() else text


def lenient(stream: TextIO | None) -> TextIO:
    """A standard stream that ends nothing: letters that its encoding has no room for are written as escapes.

    stream: None where it is closed, as `>&-` leaves it; what is written then goes nowhere.
    """
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def connection(connected: bool) -> None:
    """What to say when the connection is lost or back; for a client's `notify`."""
    say("The connection is back." if connected else "The connection to the server was lost; trying again.")


def cancelled_with_us(
    name: str, submitting: Coroutine[Any, Any, AsyncJob]
) -> contextlib.AbstractAsyncContextManager[AsyncJob]:
    """The job that `submitting` gives, cancelled on the server when this command is (Ctrl-C, SIGTERM).

    name: of the job, for the sentence that says so.
    """

    def told(cancelled: bool | None) -> None:
        if cancelled:
            say(f"{name}: cancelled, on the server too.")
        elif cancelled is None:
            say(f"{name}: stopped here, but the server could not be told; its job may go on.")

    return held(submitting, told)
