"""A job followed to its end, and its answer waited for: the same for every door.

    ledger ─ told so far ─▶ ┐
                            ├─▶ follow() ─▶ News, News … the final answer          answer() ─▶ the final answer alone
    listeners ─ news ─────▶ ┘

What is kept comes from the ledger, until there is no more; news only rings the bell. So an event comes once, in order,
whatever comes when, and who takes its time holds nothing but its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from contract.errors import JobNotFound
from pipeline.job import Out
from pipeline.result_queue import ResultQueue
from storage.records import JobRecord

HEARTBEAT_SECONDS = 15.0
"""A proxy between us and the client may close what is silent for longer."""
MAX_WAITING = 1000
"""So many may wait for answers at once."""


class News(NamedTuple):
    """One thing that a job's client is told.

    kind: `progress`, `partial`, `audio` or `final`. seq: None for progress, which is not kept. body: JSON, in which
    what is large is a reference to its blob.
    """

    kind: str
    seq: int | None
    body: bytes


class Following:
    """Who follows jobs must have made sure that they are its own."""

    def __init__(self, road: ResultQueue) -> None:
        self._road = road
        self._waiting: set[asyncio.Event] = set()
        self._closed = False

    async def follow(self, row: JobRecord, after: int = 0) -> AsyncGenerator[News | None, None]:
        """What a job's client was told after the given `seq`, then what it is told, up to the final answer.

        None comes where nothing else did for HEARTBEAT_SECONDS. It ends without a final answer only where that was told
        before, or the ledger no longer has the job. A `seq` beyond the ledger's replays the job from its first event.
        """
        seq = after if after <= row.seq else 0
        news = asyncio.Event()
        hints: list[Out] = []

        def listener(job_id: str, outs: tuple[Out, ...]) -> None:
            hints[:] = [out for out in outs if out.seq is None] or hints
            news.set()

        stop = self._road.listeners.of_job(row.id, listener)
        try:
            while True:
                news.clear()
                was_open = self._road.is_open(row.id)
                page = await self._road.told(row.id, seq)
                for event in page:
                    seq = event.seq
                    yield News(event.kind, seq, event.body)
                    if event.kind == "final":
                        return
                if page:
                    continue
                if not was_open and await self._is_over(row, seq):
                    return
                while hints:
                    yield News("progress", None, hints.pop().text)
                if not await _set_within(news, HEARTBEAT_SECONDS):
                    yield None
        finally:
            stop()

    async def _is_over(self, row: JobRecord, seq: int) -> bool:
        """Whether nothing more is told of a job that is not open; one that waits for a signal may do so for weeks."""
        try:
            row = await self._road.job(row.id, row)
        except JobNotFound:
            return True
        return row.finished_at is not None and row.seq <= seq

    async def answer(self, job_id: str, within: float) -> dict[str, Any] | None:
        """A job's final answer if there is one within so many seconds, its blobs as references; the job does not mind.

        None, too, where MAX_WAITING wait already, and at once when the server stops.
        """
        if self._closed or len(self._waiting) >= MAX_WAITING:
            return None
        ended = asyncio.Event()

        def listener(job_id: str, outs: tuple[Out, ...]) -> None:
            if any(out.kind == "final" for out in outs):
                ended.set()

        stop = self._road.listeners.of_job(job_id, listener)
        self._waiting.add(ended)
        try:
            final = await self._road.final(job_id)
            if final is None and await _set_within(ended, within):
                final = await self._road.final(job_id)
            return orjson.loads(final) if final is not None else None
        finally:
            self._waiting.discard(ended)
            stop()

    def close(self) -> None:
        """The server stops: whoever waits for an answer has waited long enough."""
        self._closed = True
        for ended in self._waiting:
            ended.set()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
