"""Room on a GPU that cannot hold every model at once: one leaves, so that another can load.

    a model does not fit while it loads ─▶ make() ─▶ the one that is idle for longest retires; if all are at work, the
                                                     one with the least to do, when that is done
    it is gone ─▶ the other loads ─▶ ready, or not to be had ─▶ the one that left may load again

So models that do not fit together take turns, each for the tasks that it holds at once, and a job waits for its model
where it would fail otherwise. It fails when nobody is left who could leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import structlog

from pipeline.transport.process import Incarnation

log = structlog.get_logger()


class Tenant(Protocol):
    """A pool of processes, as far as it shares a device with others."""

    name: str
    processes: list[Incarnation]
    blocked: bool
    """Whether it must not start a process now, since another needs the room."""

    def feed(self) -> None:
        """Start a process if one is needed and allowed."""


class Room:
    """Who shares the GPUs of this machine."""

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        self._tenants = tuple(tenants)
        self._moves: dict[Tenant, list[Tenant]] = {}
        self._waiting: list[Tenant] = []

    def make(self, newcomer: Tenant) -> bool:
        """Have another's process leave, and then `newcomer` start one. False when there is none that could.

        While a model moves in nobody else is asked to leave for its sake; who comes then waits until that is over. So
        it does while another loads, which may have the memory already and cannot be asked to leave yet, or leaves by
        itself to be replaced.
        """
        found = [
            (process, tenant)
            for tenant in self._tenants
            for process in tenant.processes
            if tenant is not newcomer and process.state == "ready" and not process.retiring and _on_gpu(process)
        ]
        if not found:
            newcomer.blocked = bool(self._moves.keys() - {newcomer}) or self._others_load(newcomer)
            self._waiting += [newcomer] if newcomer.blocked else []
            return newcomer.blocked
        process, tenant = min(found, key=lambda pair: (len(pair[0].held), pair[0].idle_since))
        log.info("model_makes_room", worker=tenant.name, room_for=newcomer.name, tasks=len(process.held))
        newcomer.blocked = tenant.blocked = True
        self._moves.setdefault(newcomer, []).append(tenant)
        process.retire(lambda: self._made(newcomer))
        return True

    def settled(self, newcomer: Tenant) -> None:
        """It is loaded, or will not be: those who waited, and those who left for it, may start again."""
        left = self._moves.pop(newcomer, None)
        if left is None and self._moves.keys() - set(self._waiting):  # another moves in, and it is not who waits
            return
        free, self._waiting = [newcomer, *self._waiting, *(left or ())], []
        for one in free:
            one.blocked = False
            one.feed()

    def _others_load(self, newcomer: Tenant) -> bool:
        others = (tenant for tenant in self._tenants if tenant is not newcomer)
        return any(process.state == "starting" or process.retiring for tenant in others for process in tenant.processes)

    def _made(self, newcomer: Tenant) -> None:
        newcomer.blocked = False
        newcomer.feed()
        if not any(process.state == "starting" for process in newcomer.processes):  # its tasks were cancelled
            self.settled(newcomer)


def _on_gpu(process: Incarnation) -> bool:
    return str(process.info.get("device", "")).startswith("cuda")
