"""How tasks reach workers and events come back: an interface with few holes.

`submit` never refuses: admission is decided before a job begins. Every submitted task ends with exactly one `done`,
`failed` or `lost` event unless the transport is closed first; what is then still open the ledger hands out again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from typing import Any

from contract.messages import Event, Task


class Transport(ABC):
    """The road between the ResultQueue and the workers."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._some = asyncio.Event()

    @abstractmethod
    async def start(self) -> None:
        """Get ready to take tasks."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Queue a task for its worker."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Free the workers of a job's tasks as soon as can be."""

    @abstractmethod
    def more(self, job: str, ended: bool = False) -> None:
        """The recording of a live job has grown: wake its task. ended: it is whole, which the task is told."""

    @abstractmethod
    def hold(self, workers: Collection[str]) -> None:
        """Hear these workers, and only these, no more until the next call: they wait when their pipes are full."""

    @abstractmethod
    async def drain(self, seconds: float) -> None:
        """Hand out no more tasks; return when those under way have ended, or after `seconds`."""

    @abstractmethod
    async def close(self) -> None:
        """Stop every worker."""

    @abstractmethod
    def status(self) -> dict[str, dict[str, Any]]:
        """For each worker: ``state``, ``queued``, ``running``, ``restarts`` and its processes' facts."""

    async def events(self) -> AsyncIterator[list[Event]]:
        """Everything that has happened since the last time, in order; for ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            yield self.left()

    def left(self) -> list[Event]:
        """What `events` has not given yet; for the end, when nobody waits for it any more."""
        events, self._events = self._events, []
        return events

    def _happened(self, *events: Event) -> None:
        self._events.extend(events)
        self._some.set()
