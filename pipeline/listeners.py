"""Who hears what clients are told while it happens: of all jobs of one client, or of one job, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.job import Out

Listener = Callable[[str, tuple[Out, ...]], None]
"""Called on the event loop with a job's id and what its client is told."""


class Listeners:
    """What is told costs what those cost who hear it, however many others there are."""

    def __init__(self) -> None:
        self._of_client: dict[str, list[Listener]] = {}
        self._of_job: dict[str, list[Listener]] = {}

    def of_client(self, client: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` with everything that a client is told; returns how to stop that."""
        return _added(self._of_client, client, listener)

    def of_job(self, job_id: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` with everything that is told of a job; returns how to stop that."""
        return _added(self._of_job, job_id, listener)

    def tell(self, client: str, job_id: str, outs: tuple[Out, ...]) -> None:
        for listener in (*self._of_client.get(client, ()), *self._of_job.get(job_id, ())):
            listener(job_id, outs)


def _added(listeners: dict[str, list[Listener]], name: str, listener: Listener) -> Callable[[], None]:
    listeners.setdefault(name, []).append(listener)
    return partial(_removed, listeners, name, listener)


def _removed(listeners: dict[str, list[Listener]], name: str, listener: Listener) -> None:
    listeners[name].remove(listener)
    if not listeners[name]:
        del listeners[name]
