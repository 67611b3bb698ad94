"""How many jobs may be open, and how long each may stay so."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
from collections import Counter
from collections.abc import Callable, Collection

from contract import clock
from contract.errors import QueueFull
from contract.identity import Identity

RETRY_AFTER_SECONDS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """open_jobs, …_per_client, …_per_address: unfinished jobs; deadline_seconds: from acceptance to the final answer;
    file_bytes: of an upload, and of a recording that is sent while its job runs.
    """

    open_jobs: int = 1000
    open_jobs_per_client: int = 100
    open_jobs_per_address: int = 500
    deadline_seconds: float = 24 * 3600.0
    file_bytes: int = 10 * 10**9


class Places:
    """One for each unfinished job, and for each message that is about to become one.

    A new client costs nothing but a request, so those at one address have a limit together.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        self._holders: dict[str, tuple[str, ...]] = {}

    def take(self, job_id: str, who: Identity) -> None:
        """Raises: QueueFull when they, or all at their address, have no place left, or the server has none."""
        limits, at = self._limits, f"at {who.address}"
        if len(self._holders) >= limits.open_jobs:
            raise _full(f"The server has {limits.open_jobs} unfinished jobs and takes no more until some are done.")
        if self._taken[who.limited_as] >= limits.open_jobs_per_client:
            raise _full(
                f"You have {limits.open_jobs_per_client} unfinished jobs (without a token: you and others at your "
                "address together); wait for some of them."
            )
        if who.address and self._taken[at] >= limits.open_jobs_per_address:
            raise _full(
                f"The clients at your address have {limits.open_jobs_per_address} unfinished jobs together "
                "(MAX_OPEN_JOBS_PER_ADDRESS); wait for some of them."
            )
        self._hold(job_id, (who.limited_as, at))

    def hold(self, job_id: str, limited_as: str) -> None:
        """Take a place whatever the limits: for a job that was accepted before, from an address that nobody knows."""
        self._hold(job_id, (limited_as,))

    def give_back(self, job_id: str) -> None:
        for name in self._holders.pop(job_id, ()):
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]

    def _hold(self, job_id: str, names: tuple[str, ...]) -> None:
        self._holders[job_id] = names
        self._taken.update(names)


def _full(message: str) -> QueueFull:
    return QueueFull(message, retry_after=RETRY_AFTER_SECONDS)


class Deadlines:
    """Calls `late` with the id of each job that is still among the open ones when its time is over.

    Times: seconds since 1970. One timer for all, set to the earliest.
    """

    def __init__(self, open_jobs: Collection[str], late: Callable[[str], None]) -> None:
        self._open = open_jobs
        self._late = late
        self._heap: list[tuple[float, str]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, deadline: float, job_id: str) -> None:
        if len(self._heap) > 2 * len(self._open) + 1000:  # most are of jobs that have ended
            self._heap = sorted(entry for entry in self._heap if entry[1] in self._open)
        heapq.heappush(self._heap, (deadline, job_id))
        if self._heap[0][1] == job_id:
            self._set_alarm()

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _set_alarm(self) -> None:
        self.close()
        while self._heap and self._heap[0][1] not in self._open:
            heapq.heappop(self._heap)
        if self._heap:
            wait = max(0.0, self._heap[0][0] - clock.now())
            self._alarm = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        now = clock.now()
        while self._heap and self._heap[0][0] <= now:
            job_id = heapq.heappop(self._heap)[1]
            if job_id in self._open:
                self._late(job_id)
        self._set_alarm()
