"""One connection's way out.

Its sender keeps the order of what is told. What the connection cannot take now is not kept for it: it falls behind, and
reads from the ledger when it has drained. `resume` is the same road, begun by the client.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog

from gateway.wire import OutboundQueue
from media.files import Folders
from pipeline import blobs
from pipeline.intake import Identity
from pipeline.job import Out
from pipeline.result_queue import ResultQueue

log = structlog.get_logger()

MAX_ANSWER_BYTES = 3 * 1024 * 1024
MAX_PENDING = 256
"""Events that wait for one connection's sender; beyond, it reads them from the ledger instead."""
PAGE = 32
"""Events read from the ledger at once: up to 64 KiB each, and held while a slow reader takes them."""


class Connection:
    """One live connection and its sender.

    who, token: whose it is. send: emits one event. outbound: what waits in the socket, None when that is gone.
    """

    def __init__(  # noqa: PLR0917
        self,
        who: Identity,
        token: str,
        send: Callable[[str, Any], Awaitable[None]],
        outbound: Callable[[], OutboundQueue | None],
        road: ResultQueue,
        folders: Folders,
    ) -> None:
        self.who = who
        self.token = token
        self._emit = send
        self._outbound = outbound
        self._road = road
        self._folders = folders
        self._pending: deque[tuple[str, Out]] = deque()
        self._behind: dict[str, int] = {}
        self._missed: set[str] = set()
        self._sent: dict[str, int] = {}
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._sender = asyncio.create_task(self._run())
        self._sender.add_done_callback(_report)

    def push(self, job_id: str, outs: tuple[Out, ...]) -> None:
        """Send these in their turn."""
        for out in outs:
            if job_id in self._behind:
                self._missed.add(job_id)  # the ledger has it
                return
            if len(self._pending) < MAX_PENDING:
                self._pending.append((job_id, out))
            elif out.seq is not None:
                self._behind[job_id] = out.seq - 1
        self._some.set()

    def replay(self, jobs: dict[str, int]) -> None:
        """Send what the ledger has of these jobs after the given seq, then go on live."""
        for job_id, seq in jobs.items():
            self._sent.pop(job_id, None)
            self._behind[job_id] = seq
        self._pending = deque(entry for entry in self._pending if entry[0] not in jobs)
        self._some.set()

    async def flush(self) -> None:
        """Wait, a moment at most, until nothing is left to send."""
        try:
            async with asyncio.timeout(2):
                while self._pending or self._behind:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.info("reader_too_slow", client=self.who.client)  # it may resume later

    def close(self) -> None:
        self._sender.cancel()

    async def _run(self) -> None:
        while True:
            self._idle.set()
            await self._some.wait()
            self._some.clear()
            while self._pending or self._behind:
                if self._pending:
                    job_id, out = self._pending.popleft()
                    if not self._is_old(job_id, out.seq):
                        await self._send(job_id, out.kind, out.seq, out.body)
                else:
                    await self._catch_up()

    async def _catch_up(self) -> None:
        """One page of one job; the job is live again when the ledger has no more of it."""
        job_id, seq = next(iter(self._behind.items()))
        self._missed.discard(job_id)
        events = await self._road.told(job_id, max(seq, self._sent.get(job_id, 0)), PAGE)
        for event in events:
            await self._send(job_id, event.kind, event.seq, orjson.loads(event.body))
        if self._behind.get(job_id) != seq:
            return  # the client asked for another place meanwhile
        if events:
            self._behind[job_id] = events[-1].seq
        elif job_id not in self._missed:  # nothing came while the ledger was read
            del self._behind[job_id]

    def _is_old(self, job_id: str, seq: int | None) -> bool:
        return seq is not None and seq <= self._sent.get(job_id, 0)

    async def _send(self, job_id: str, kind: str, seq: int | None, body: dict[str, Any]) -> None:
        if kind == "audio":
            body = {**body, "audio": b64decode(body["audio"])}
        elif seq is not None:
            body = await outgoing(body, self._folders)
        outbound = self._outbound()
        if outbound is not None and not outbound.drained.is_set():
            if seq is None:
                return  # a hint is worth nothing later
            await outbound.drained.wait()
        if kind == "final":
            self._sent.pop(job_id, None)
        elif seq is not None:
            self._sent[job_id] = seq
        await self._emit("message" if kind == "final" else kind, body)


async def outgoing(body: dict[str, Any], folders: Folders) -> dict[str, Any]:
    """A body as it is sent: whole, or without its bulky field and with where to read it."""
    weight = blobs.weight(body)
    if weight + len(orjson.dumps(body)) <= MAX_ANSWER_BYTES:
        return await asyncio.to_thread(blobs.inlined, body, folders) if weight else body
    sizes = {key: len(orjson.dumps(value)) + blobs.weight({key: value}) for key, value in body.items()}
    bulky = max(sizes, key=lambda key: sizes[key])
    rest = {key: value for key, value in body.items() if key != bulky}
    return {**rest, "truncated": True, "result_url": f"/jobs/{body['job_id']}"}


def _report(sender: asyncio.Task[None]) -> None:
    if not sender.cancelled() and sender.exception() is not None:
        log.error("sender_failed", exc_info=sender.exception())
