"""One connection's way out: what its client's jobs tell.

For each job of which something is still to be sent there is a `Line`: the `seq` that was sent last, and what came
since, which is short, or lies in the ledger. The sender goes around the lines until there is none. A line ends when all
that it has was sent and, where it was read from the ledger, a read began after the last news and found nothing more;
the next news begins another. So nothing is left behind whatever comes when, and a connection that takes nothing holds
nothing but its places. `resume` is the same road, begun by the client.
"""

from __future__ import annotations

import asyncio
import dataclasses
from base64 import b64decode
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import structlog

from contract.folders import Folders
from contract.identity import Identity
from gateway.outbound import HIGH_WATER_BYTES, OutboundQueue, Outgoing
from pipeline.job import Out
from pipeline.result_queue import ResultQueue
from pipeline.stored import event_of
from storage import blobs
from storage.ledger import ReadFailed
from storage.records import EventRecord

log = structlog.get_logger()

MAX_ANSWER_BYTES = 3 * 1024 * 1024
FLUSH_SECONDS = 2.0
REFUSAL_SECONDS = 0.001
RETRY_SECONDS = 1.0
"""Until the ledger is read again after it could not be."""


@dataclasses.dataclass(slots=True, eq=False)
class Line:
    """What one job has still to tell. sent: the last `seq`; live: those after it.

    behind: what comes after `live` is in the ledger. news: something came since the ledger was last read.
    """

    sent: int
    live: deque[EventRecord] = dataclasses.field(default_factory=deque)
    behind: bool = False
    news: bool = False


class Connection:
    """One live connection and its sender.

    who, token: whose it is. send: puts packets on their way. outbound: what waits in the socket, None when that is
    gone.
    """

    def __init__(  # noqa: PLR0917
        self,
        who: Identity,
        token: str,
        send: Callable[[list[Outgoing]], Awaitable[None]],
        outbound: Callable[[], OutboundQueue | None],
        road: ResultQueue,
        folders: Folders,
    ) -> None:
        self.who = who
        self.token = token
        self.one_at_a_time = asyncio.Lock()
        self._pausing = asyncio.Lock()
        self._send = send
        self._outbound = outbound
        self._road = road
        self._folders = folders
        self._lines: dict[str, Line] = {}
        self._hints: dict[str, Out] = {}
        self._live_bytes = 0
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._sender = asyncio.create_task(self._run())
        self._sender.add_done_callback(_report)
        self._stop_listening = road.listeners.of_client(who.client, self._push)

    def _push(self, job_id: str, outs: tuple[Out, ...]) -> None:
        """Send these in their turn."""
        for out in outs:
            if out.seq is not None:
                self._add(job_id, event_of(out))
            elif self._is_drained():
                self._hints[job_id] = out
        self._some.set()

    async def resume(self, wanted: dict[str, int]) -> dict[str, Any]:
        """Send what the ledger has of these jobs after the given seq, then go on live.

        Returns what the client is told of it. The sender has its turn when the caller next waits, so that what the
        caller sends at once comes before.
        """
        unfinished = {job_id for job_id in wanted if self._road.is_open(job_id)}
        known = await self._road.last_seqs(wanted, self.who)
        resumed = {job_id: seq if seq <= known[job_id] else 0 for job_id, seq in wanted.items() if job_id in known}
        unfinished |= {job_id for job_id, seq in resumed.items() if seq < known[job_id]}
        self._replay(resumed, unfinished)
        unknown = [job_id for job_id in wanted if job_id not in known]
        reset = any(wanted[job_id] > known[job_id] for job_id in resumed)
        return {"resumed": list(resumed), "unknown": unknown, **({"reset": True} if reset else {})}

    def _replay(self, places: dict[str, int], unfinished: set[str]) -> None:
        """unfinished: the jobs that may have more after their place; of the others only an earlier replay ends."""
        for job_id, seq in places.items():
            old = self._lines.pop(job_id, None)
            if old is not None:
                self._forget(old)
            if old is not None or job_id in unfinished:
                self._lines[job_id] = Line(seq, behind=True)
        self._some.set()

    async def flush(self) -> None:
        """Wait, a moment at most, until nothing is left to send."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                while self._lines:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.info("reader_too_slow", client=self.who.client)  # it may resume later

    async def pause(self) -> None:
        """After each refusal, one after the other: a flood that is refused must not cost others their time."""
        async with self._pausing:
            await asyncio.sleep(REFUSAL_SECONDS)

    def close(self) -> None:
        self._stop_listening()
        self._sender.cancel()

    def _add(self, job_id: str, event: EventRecord) -> None:
        line = self._lines.get(job_id)
        if line is None:
            line = self._lines[job_id] = Line(event.seq - 1)
        line.news = True
        if not line.behind and self._is_drained() and self._live_bytes + len(event.body) <= HIGH_WATER_BYTES:
            line.live.append(event)
            self._live_bytes += len(event.body)
        else:
            line.behind = True

    def _forget(self, line: Line) -> None:
        """Leave to the ledger what the line holds."""
        self._live_bytes -= sum(len(event.body) for event in line.live)
        line.live.clear()
        line.behind = True

    async def _run(self) -> None:
        while True:
            self._idle.set()
            await self._some.wait()
            self._some.clear()
            while self._lines or self._hints:
                try:
                    await self._send_hints()
                    if self._lines:
                        await self._serve(*next(iter(self._lines.items())))
                except (OSError, ReadFailed):
                    log.exception("event_not_read", client=self.who.client)
                    await asyncio.sleep(RETRY_SECONDS)  # the line is at the place where it was, behind the others

    async def _send_hints(self) -> None:
        """The newest of each job, and only where there is room: a hint is worth nothing later."""
        hints, self._hints = self._hints, {}
        for out in hints.values():
            if self._is_drained():
                await self._send([event_packet(out.kind, out.text)])

    async def _serve(self, job_id: str, line: Line) -> None:
        """Send some of a line, then let the next one have its turn."""
        await self.room()
        if self._lines.get(job_id) is not line:
            return  # the client asked for another place meanwhile
        try:
            if line.live:
                await self._tell(job_id, line, [line.live[0]])
                if line.live and line.live[0].seq == line.sent:
                    self._live_bytes -= len(line.live.popleft().body)
            elif line.behind:
                await self._catch_up(job_id, line)
        finally:
            if self._lines.get(job_id) is line:
                del self._lines[job_id]
                if line.live or line.behind:
                    self._lines[job_id] = line

    async def _catch_up(self, job_id: str, line: Line) -> None:
        """A page from the ledger; the line is live again when it has no more."""
        line.news = False
        outbound = self._outbound()
        page = await self._road.told(job_id, line.sent, outbound.room if outbound is not None else 0)
        await self._tell(job_id, line, page)
        if not page and not line.news:
            line.behind = False

    async def _tell(self, job_id: str, line: Line, events: list[EventRecord]) -> None:
        """Send as many of these as there is room for; the ledger keeps the others."""
        for event in events:
            if not self._is_drained() or self._lines.get(job_id) is not line:
                return
            packets = await self._packets(event)
            if self._lines.get(job_id) is not line:
                return
            line.sent = event.seq
            await self._send(packets)

    async def _packets(self, event: EventRecord) -> list[Outgoing]:
        if event.kind == "audio":
            return _audio_packets(event.body)
        name = "message" if event.kind == "final" else event.kind
        if len(event.body) <= MAX_ANSWER_BYTES and blobs.MARK not in event.body:
            return [event_packet(name, event.body)]
        return await asyncio.to_thread(_large_packets, name, event.body, self._folders)

    def _is_drained(self) -> bool:
        outbound = self._outbound()
        return outbound is None or outbound.drained.is_set()

    async def room(self) -> None:
        """Wait until the client has taken most of what it was sent; what came meanwhile is in the ledger."""
        outbound = self._outbound()
        if outbound is not None and not outbound.drained.is_set():
            for line in self._lines.values():
                self._forget(line)
            await outbound.drained.wait()


def event_packet(name: str, body: bytes) -> Outgoing:
    """A Socket.IO event of one argument, which is JSON."""
    return Outgoing([b'2["%b",' % name.encode(), body, b"]"])


def _audio_packets(text: bytes) -> list[Outgoing]:
    body = orjson.loads(text)
    sound = b64decode(body["audio"])
    head = orjson.dumps(["audio", {**body, "audio": {"_placeholder": True, "num": 0}}])
    return [Outgoing([b"51-", head]), Outgoing([sound], binary=True)]


def _large_packets(name: str, text: bytes, folders: Folders) -> list[Outgoing]:
    """An answer whole, or without its bulky field and with where to read it. Looks at the disk."""
    body = orjson.loads(text)
    attached: list[Path] = []
    weight = blobs.weight(body)
    parts: list[bytes | Path]
    if weight + len(text) <= MAX_ANSWER_BYTES:
        parts = blobs.parts(body, folders, attached)
    else:
        parts = [orjson.dumps(without_bulk(body))]
    count = b"5%d-" % len(attached) if attached else b"2"
    packets = [Outgoing([b'%b["%b",' % (count, name.encode()), *parts, b"]"])]
    return packets + [Outgoing([path], binary=True) for path in attached]


def without_bulk(body: dict[str, Any]) -> dict[str, Any]:
    """A body without its largest field, and with where the whole can be read."""
    sizes = {key: len(orjson.dumps(value)) + blobs.weight({key: value}) for key, value in body.items()}
    bulky = max(sizes, key=lambda key: sizes[key])
    rest = {key: value for key, value in body.items() if key != bulky}
    return {**rest, "truncated": True, "result_url": f"/jobs/{body['job_id']}"}


def _report(sender: asyncio.Task[None]) -> None:
    if not sender.cancelled() and sender.exception() is not None:
        log.error("sender_failed", exc_info=sender.exception())
