"""One job as its client sees it: the events so far, in order, and whoever waits for the next.

An event is taken when its `seq` is the one after the last; an earlier one is a repetition and dropped; a later one
means that something was missed, and is left for the replay that the client then asks for. So what `events()` gives has
neither hole nor duplicate, whatever the connections did meanwhile.

Events are kept, so that `events()` gives them again to whoever comes later. Sound is not, since a stream may last for
hours: a piece goes when every iterator that there is has passed it, and one made later begins behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal

from .errors import OptivusError, error_of
from .events import Audio, Event, Final, Progress
from .warn import warn

SAMPLE_BYTES = 2
LEAVE_SECONDS = 5.0
"""Seconds that a cancelled call waits for the server to confirm that the job is cancelled too."""


class AsyncJob:
    """A job on the server. Made by `AsyncClient.submit` and `AsyncClient.job`.

    id: the server's name for it; with the client's token it can be found again from another process.
    last_seq: the `seq` of the last event that has arrived.
    sample_rate: of its sound, in Hz; None until the first piece of it has arrived.
    """

    def __init__(
        self,
        job_id: str,
        last_seq: int,
        cancel: Callable[[str], Awaitable[bool]],
        signal: Callable[[str, str, Mapping[str, Any] | None], Awaitable[bool]],
    ) -> None:
        self.id = job_id
        # A replay begins with an event that is known already, which may be the final one: nothing would come after it.
        self.last_seq = max(0, last_seq - 1)
        self._known = last_seq
        self.final: Final | None = None
        self.failure: OptivusError | None = None
        self.sample_rate: int | None = None
        self._cancel = cancel
        self._signal = signal
        self._kept: list[Event | None] = []  # None stands for a piece of sound that every iterator has passed
        self._forgotten = 0  # no sound is kept before this place
        self._cursors: weakref.WeakSet[_Cursor] = weakref.WeakSet()
        self._progress: Progress | None = None
        self._changed = asyncio.Event()

    def events(self) -> AsyncGenerator[Event, None]:
        """Every event from the first that this client received to `Final`, the last, whatever its status.

        `Progress` is given when there is nothing else to give, and only the newest. May be called more than once;
        `Audio` that all earlier callers have had by then is not given again.
        Raises: OptivusError (JOB_NOT_FOUND when the server no longer knows the job), ServerUnreachable.
        """
        self._cursors.add(cursor := _Cursor())
        return self._events(cursor)

    def audio(self) -> AsyncGenerator[bytes, None]:
        """The sound of a job with ``stream``, piece by piece as it is made: pcm_s16le, mono, at `sample_rate`.

        The pieces joined are the whole, and it is complete when the iterator ends by itself.
        Raises: Cancelled; OptivusError with the answer's code, message and details; ServerUnreachable.
        """
        return self._audio(self.events())

    async def _audio(self, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
        heard = 0
        async for event in events:
            if isinstance(event, Audio) and event.end > heard:  # less when the server told the job again: see `replay`
                yield event.audio[max(0, heard - event.start) * SAMPLE_BYTES :]
                heard = event.end
        await self.result()

    async def _events(self, cursor: _Cursor) -> AsyncGenerator[Event, None]:
        progress = None
        while True:
            while cursor.given < len(self._kept):
                event = self._kept[cursor.given]
                cursor.given += 1
                if event is None:
                    continue
                if isinstance(event, Audio):
                    self._forget_sound()
                yield event
                if isinstance(event, Final):
                    return
            if self._progress is not progress and self._progress is not None:
                progress = self._progress
                yield progress
            elif self.failure is not None:
                raise self.failure
            else:
                await self._changed.wait()

    async def result(self) -> dict[str, Any]:
        """The job's answer, when it is there; what the server warns of in it is raised as an OptivusWarning.

        Raises: Cancelled; OptivusError with the answer's code, message and details; ServerUnreachable.
        """
        while self.final is None:
            if self.failure is not None:
                raise self.failure
            await self._changed.wait()
        warn(map(str, self.final.answer.get("warnings", ())))
        if self.final.status != "success":
            raise error_of(self.final.answer)
        return self.final.answer

    async def cancel(self) -> bool:
        """Stop the job; False when it had already ended. `result()` then raises `Cancelled`."""
        return await self._cancel(self.id)

    async def signal(self, name: str, data: Mapping[str, Any] | None = None) -> bool:
        """Give the job what it waits for; as `AsyncClient.signal`."""
        return await self._signal(self.id, name, data)

    # The methods below are for the client that owns the job.

    def place(self, seq: int) -> Literal["next", "old", "later"]:
        """Where an event stands in the job's sequence."""
        if seq <= self.last_seq:
            return "old"
        return "next" if seq == self.last_seq + 1 else "later"

    def add(self, event: Event) -> None:
        """The next event, or a newer progress."""
        if isinstance(event, Progress):
            self._progress = event
        else:
            if isinstance(event, Audio):
                self.sample_rate = event.sample_rate
            self.last_seq = event.seq
            if event.seq > self._known or isinstance(event, Final):
                self._kept.append(event)
        if isinstance(event, Final):
            self.final = event
        self._wake()

    def replay(self) -> None:
        """The server's ledger is behind what this client has seen: it tells the job again from its first event."""
        self.last_seq = self._known = 0

    def fail(self, failure: OptivusError) -> None:
        """Nothing more will be heard of the job."""
        if self.final is None:
            self.failure = failure
            self._wake()

    def _forget_sound(self) -> None:
        passed = min(cursor.given for cursor in self._cursors)
        for place in range(self._forgotten, passed):
            if isinstance(self._kept[place], Audio):
                self._kept[place] = None
        self._forgotten = max(self._forgotten, passed)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@contextlib.asynccontextmanager
async def held(
    submitting: Coroutine[Any, Any, AsyncJob], told: Callable[[bool | None], None] = lambda cancelled: None
) -> AsyncIterator[AsyncJob]:
    """The job that `submitting` gives, cancelled on the server when the block is, also in mid-submission.

    told: called after that with True, or False when the job had ended, or None when the server did not answer in time.
    """
    submission = asyncio.ensure_future(submitting)
    try:
        yield await asyncio.shield(submission)
    except asyncio.CancelledError:
        cancelled = None
        with contextlib.suppress(TimeoutError, OptivusError):
            async with asyncio.timeout(LEAVE_SECONDS):
                cancelled = await (await submission).cancel()
        told(cancelled)
        raise


class _Cursor:
    """How many of the kept events an iterator has been given; it is gone when the iterator is."""

    def __init__(self) -> None:
        self.given = 0
