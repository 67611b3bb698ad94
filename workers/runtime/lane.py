"""The second lane of a worker's process: threads for what its tasks do around the model.

    put(slice) ─▶ slices in order, some of them first ─┬─▶ a thread, beside the model
                                                       └─▶ help(): the model's own thread, while slices are short

A slice is what a task does between two of its yields. The way to another thread takes longer than most slices of a
worker that hardly prepares anything, so such slices stay where they are.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()

BRIEF_SECONDS = 0.0003
"""Slices that take less on average are done by the model's thread. A thread that has to be woken takes about 0.05 ms,
and more when both want the interpreter."""
_WEIGHT = 0.05
"""Weight of the latest slice in the running mean."""
PATIENCE = 6
"""So many later ones go before a slice that does not go first, and no more."""

STUCK_SECONDS = 0.25
"""A slice that takes so long waits for a program or a disk, or holds a library; it holds up no other then."""
MOST_RELIEFS = 6
"""Threads beside those that there are, while all of them are stuck."""

Slice = Callable[[], None]
"""Raises nothing."""


class Lane:
    """threads: how many there are; with none, `help` does everything. wake: called after each slice of theirs."""

    def __init__(self, threads: int, wake: Callable[[], None]) -> None:
        self._queue: list[tuple[int, int, Slice]] = []
        self._count = 0
        self._there = threading.Condition()
        self._threads = threads
        self._wake = wake
        self._mean = 0.0
        self._busy: dict[int, float] = {}
        """When the slices in hand began, by their threads."""
        self._watched = False
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"lane-{number}", daemon=True).start()

    @property
    def apart(self) -> bool:
        """Whether slices belong to the threads, since they are long."""
        return self._threads > 0 and self._mean > BRIEF_SECONDS

    @property
    def waits_for_help(self) -> bool:
        """Whether there is something that `help` would do."""
        return bool(self._queue) and not self.apart

    def put(self, work: Slice, *, first: bool) -> None:
        """first: before those that are not, as long as they have not waited for `PATIENCE`."""
        with self._there:
            self._count += 1
            heapq.heappush(self._queue, (self._count + (0 if first else PATIENCE), self._count, work))
            if self.apart:
                self._there.notify()
                self._watch()

    def help(self) -> None:
        """Do what waits now, unless it is the threads'; what is put meanwhile waits for the next time."""
        for _ in range(len(self._queue)):
            with self._there:
                if self.apart or not self._queue:
                    return
                _, _, work = heapq.heappop(self._queue)
            self._timed(work)

    def _serve(self) -> None:
        while True:
            with self._there:
                self._there.wait_for(lambda: self._queue and self.apart)
            self._do_next()

    def _do_next(self) -> bool:
        """Whether there was a slice for a thread. One that raises ends the process, as it would in the main thread."""
        with self._there:
            if not (self._queue and self.apart):
                return False
            _, _, work = heapq.heappop(self._queue)
            self._busy[threading.get_ident()] = time.monotonic()
        try:
            self._timed(work)
        except BaseException:
            log.exception("worker_broken")
            os._exit(1)
        with self._there:
            del self._busy[threading.get_ident()]
        self._wake()  # there may be a unit now, or what waits has become the main thread's
        return True

    def _watch(self) -> None:
        """Look in a while whether what waits still does. Call with the lock."""
        if not self._watched:
            self._watched = True
            timer = threading.Timer(STUCK_SECONDS, self._relieve)
            timer.daemon = True
            timer.start()

    def _relieve(self) -> None:
        """Do what waits in this thread too, if every other has been stuck in one slice since the last look."""
        with self._there:
            self._watched = False
            if not self._queue:
                return
            self._watch()
            long_ago = time.monotonic() - STUCK_SECONDS
            there_may_be_another = self._threads <= len(self._busy) < self._threads + MOST_RELIEFS
            if not there_may_be_another or max(self._busy.values()) > long_ago:
                return
        while self._do_next():
            continue

    def _timed(self, work: Slice) -> None:
        """What waits may become the threads' by this slice."""
        began = time.perf_counter()
        work()
        self._mean += _WEIGHT * (time.perf_counter() - began - self._mean)
        if self.apart and self._queue:
            with self._there:
                self._there.notify_all()
