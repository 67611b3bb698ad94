"""How much a process holds beyond what it held when its model was loaded: what its libraries leak, it keeps for good.

What counts is memory of its own, not the pages of files that it reads, such as mapped weights: what is left of it
between two tasks; of a process that is never without one, what it holds at every look for `BUSY_SECONDS`. Memory that
is free and that the system has not got back yet is given back before.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
from collections.abc import Callable
from pathlib import Path

BUSY_SECONDS = 600.0
"""Longer than a batch in hand, or the preparation of a file."""
_STATM = Path("/proc/self/statm")


def ram_gb() -> float | None:
    """What the process holds of the machine's memory; None where the system does not say."""
    if not _STATM.exists():
        return None
    return _gb(_pages()[0])


def own_gb() -> float | None:
    """That without what is of files, which the system takes back when it needs room."""
    if not _STATM.exists():
        return None
    resident, shared = _pages()
    return _gb(resident - shared)


def _pages() -> tuple[int, int]:
    """Of the machine's memory, and how many of these are of files or shared with other processes."""
    resident, shared = _STATM.read_text().split()[1:3]
    return int(resident), int(shared)


def _gb(pages: int) -> float:
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 2)


def give_back() -> None:
    """Let the system have what is free."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class Growth:
    """limit: GB beyond those that the process holds now, with its model; 0: it may grow without end."""

    def __init__(self, limit: float, held: Callable[[], float | None] = own_gb) -> None:
        self._held = held
        loaded = held()
        self._most = loaded + limit if loaded is not None and limit else math.inf
        self._since: float | None = None
        self._told = False

    def look(self, idle: bool, now: float) -> tuple[float | None, bool]:
        """(`ram_gb` now, whether it has just been found to have grown). idle: no task is held. now: monotonic clock."""
        held = self._held()
        if held is not None and held > self._most:
            give_back()
            held = self._held()
        if held is None or held <= self._most:
            self._since = None
            return ram_gb(), False
        self._since = now if self._since is None else self._since
        found = not self._told and (idle or now - self._since >= BUSY_SECONDS)
        self._told |= found
        return ram_gb(), found
