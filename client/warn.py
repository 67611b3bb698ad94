"""What a server warns of (an option that it does not know), told as Python's warnings at the caller's line.

The synchronous client works in a thread in which there is no caller: what is to be warned of there is carried to the
thread that waits, and told when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

_NOT_THE_CALLER = (
    f"{Path(__file__).parent}{os.sep}",
    f"{Path(asyncio.__file__).parent}{os.sep}",
    contextlib.__file__,
)


class OptivusWarning(UserWarning):
    """The server did what was asked, but perhaps not all of it; or it has given this client another token."""


class _Carrier:
    """The sentences for a thread that waits; `waits` is False once it has gone on without them."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.waits = True


_CARRIER: ContextVar[_Carrier | None] = ContextVar("optivus_warnings", default=None)


def warn(sentences: Iterable[str]) -> None:
    """Warn of each sentence, at the line of whoever called this package."""
    carrier = _CARRIER.get()
    for sentence in sentences:
        if carrier is not None and carrier.waits:
            carrier.sentences.append(sentence)
        else:
            warnings.warn(sentence, OptivusWarning, stacklevel=_depth_of_the_caller())


@contextlib.contextmanager
def told_here() -> Iterator[None]:
    """Work that begins in this block, in whichever thread, warns when the block ends, at the line that waits here."""
    carrier = _Carrier()
    reset = _CARRIER.set(carrier)
    try:
        yield
    finally:
        _CARRIER.reset(reset)
        carrier.waits = False
        warn(carrier.sentences)


def _depth_of_the_caller() -> int:
    """The `stacklevel` by which `warn` means the first frame outside this package."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_CALLER):
        depth, frame = depth + 1, frame.f_back
    return depth
