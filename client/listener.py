"""Speech that is written down while it is being spoken.

    send() ─▶ kept here ─▶ event `audio` ─▶ acknowledged with the bytes received ─▶ forgotten here
                  └── more than LIMIT: send() waits

After a lost connection, sound is sent again from the byte that was acknowledged last. The server skips what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from .errors import OptivusError
from .events import Event
from .job import AsyncJob

LIMIT = 4_000_000
"""Bytes that wait here for the connection: two minutes of raw samples at 16 kHz."""
PIECE = 256_000


class AsyncListener:
    """A recording on its way to the server. Made by `AsyncClient.listen`; an async context manager.

    job: set on entry. Leaving the block without `finish` cancels it.
    """

    job: AsyncJob

    def __init__(
        self, submit: Callable[[], Awaitable[AsyncJob]], ask: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
    ) -> None:
        """ask: sends an `audio` event and returns its acknowledgement."""
        self._submit = submit
        self._ask = ask
        self._kept = bytearray()
        self._received = 0
        self._ended = False
        self._failure: OptivusError | None = None
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self.job = await self._submit()
        self._sender = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._sender.done() and kind is None:
            return
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        await self.job.cancel()

    async def send(self, sound: bytes) -> None:
        """The next bytes of the recording, as they come; waits while too many are on their way.

        Raises: OptivusError with which the job ended; ServerUnreachable.
        """
        async with self._changed:
            self._kept += sound
            self._changed.notify_all()
            await self._changed.wait_for(lambda: len(self._kept) < LIMIT or self._failure)
        if self._failure is not None:
            await self._why()

    def events(self) -> AsyncIterator[Event]:
        """Every event as it comes, up to `Final`; see `AsyncJob.events`.

        A `Partial` is a chunk of the transcript: its data has `start`, `end`, `text`, `final`, and `stable`: so many
        characters of a tentative text stay as they are until it is final.
        """
        return self.job.events()

    async def finish(self) -> dict[str, Any]:
        """The recording is whole: the job's answer, when it is there.

        Raises: Cancelled, OptivusError, ServerUnreachable.
        """
        async with self._changed:
            self._ended = True
            self._changed.notify_all()
        await self._sender
        if self._failure is not None:
            await self._why()
        return await self.job.result()

    async def _why(self) -> None:
        """Raises what has ended the job, which says more than that it takes no sound."""
        assert self._failure is not None
        if self._failure.code == "JOB_NOT_FOUND":
            await self.job.result()
        raise self._failure

    async def _send_all(self) -> None:
        try:
            while piece := await self._next():
                await self._send(piece)
            await self._end()
        except OptivusError as exc:
            async with self._changed:
                self._failure = exc
                self._changed.notify_all()

    async def _next(self) -> bytes:
        """The next bytes to send; none when the recording is whole."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._kept or self._ended)
            return bytes(self._kept[:PIECE])

    async def _send(self, piece: bytes) -> None:
        answer = await self._ask({"job_id": self.job.id, "offset": self._received, "audio": piece})
        if answer["received"] < self._received:
            raise OptivusError("The server has lost a part of this recording; begin another.", "INTERNAL")
        async with self._changed:
            del self._kept[: answer["received"] - self._received]
            self._received = answer["received"]
            self._changed.notify_all()

    async def _end(self) -> None:
        try:
            await self._ask({"job_id": self.job.id, "end": True})
        except OptivusError as exc:
            # Said twice, since the first acknowledgement was lost; or the job has failed, which `result` tells.
            if exc.code not in ("INVALID_INPUT", "JOB_NOT_FOUND"):
                raise
