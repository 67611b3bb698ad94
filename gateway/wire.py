"""python-socketio's server with the edges that this server needs, each against a trap that was measured:

- a client that does not read its answers, or has many messages in hand, is no longer read from (TCP does the rest);
- a client that takes nothing for long is closed, and one that never says CONNECT; closed means closed: engineio only
  asks the client to leave;
- an event whose attachments do not come is answered, and one that is too large, or comes too slowly, before its
  connection goes.

`engine` has the edges of the transports below it, `packets` those of what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import engineio
import socketio
import structlog
from engineio.exceptions import ContentTooLongError

from contract.errors import QueueFull, RateLimited, ServiceError
from gateway.engineio_server import CONNECT_SECONDS, EngineServer
from gateway.origins import peer_of
from gateway.outbound import HASTE, UNREAD_SECONDS, OutboundQueue, Outgoing
from gateway.packets import MAX_TRANSPORT_BYTES, Json, Packet, Unreadable, malformed, refusal
from gateway.patience import Stalled
from gateway.seats import Seats
from gateway.unfinished import Held, held_of
from pipeline.intake import too_large

log = structlog.get_logger()

MAX_IN_HAND = 16
"""Most messages of one connection that are being answered at once."""
MAX_SESSIONS = 10_000
"""Where nobody says how many connections there may be."""
CLOSE_SECONDS = 2.0
"""Seconds that a closing connection may take to send what is left; then it is cut."""

OnEvent = Callable[[str, str | None, list[Any], bool], Awaitable[bytes | None]]
"""(sid, event, arguments, whether an acknowledgement was asked for) → the acknowledgement as JSON, or None.

event: None for a packet that cannot be read; an `Unreadable` is then its only argument.
"""


class SocketServer(socketio.AsyncServer):
    """on_event: answers every event of every connection; on_connected: called with the sid of a new one."""

    def __init__(  # noqa: PLR0917
        self,
        on_event: OnEvent,
        on_connected: Callable[[str], Awaitable[None]],
        connect_seconds: float = CONNECT_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
        stall_seconds: float = UNREAD_SECONDS,
        sessions: Seats | None = None,
    ) -> None:
        super().__init__(
            async_mode="aiohttp",
            json=Json,
            serializer=Packet,
            async_handlers=False,
            max_http_buffer_size=MAX_TRANSPORT_BYTES,
            http_compression=False,
            cors_allowed_origins=[],  # the application's middleware sees to it, for all doors alike
            cors_credentials=False,
        )
        self._on_event = on_event
        self._on_connected = on_connected
        self._connect_seconds = self.eio.connect_seconds = connect_seconds
        self._close_seconds = close_seconds
        self._stall_seconds = stall_seconds
        self._sessions = self.eio.sessions = sessions or Seats(MAX_SESSIONS, MAX_SESSIONS)
        self._held: dict[str, Held] = {}
        self._peers: dict[str, str] = {}
        self._in_hand: dict[str, asyncio.Semaphore] = {}
        self._sockets: dict[str, Any] = {}
        self._answers: set[asyncio.Task[None]] = set()

    def outbound(self, sid: str) -> OutboundQueue | None:
        """What waits to be sent to a connection; None when it is gone."""
        socket = self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, "/"))
        return socket.queue if socket else None

    async def deliver(self, sid: str, outgoing: list[Outgoing]) -> None:
        """Put packets on their way to a connection; nothing happens when it is gone."""
        eio_sid = self.manager.eio_sid_from_sid(sid, "/")
        for packet in outgoing:
            await self._send_eio_packet(eio_sid, packet)

    def _engineio_server_class(self) -> type[engineio.AsyncServer]:
        return EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        request = environ["aiohttp.request"]
        self._peers[eio_sid] = peer_of(request)
        self._sessions.take(self._peers[eio_sid])
        self._held[eio_sid] = held_of(request).beside()
        self._in_hand[eio_sid] = asyncio.Semaphore(MAX_IN_HAND)
        self._sockets[eio_sid] = self.eio.sockets[eio_sid]
        self._expect_connect(eio_sid)
        self._watch(eio_sid)

    def _watch(self, eio_sid: str) -> None:
        """Close a connection that takes nothing for too long, or whose message comes too slowly."""
        socket = self._sockets.get(eio_sid)
        if socket is None:
            return
        held, came = self._held[eio_sid], getattr(socket, "posted", 0)
        waits = held.large  # a long-polling body has `Patience`
        if (wire := getattr(socket, "wire", None)) is not None:
            came += socket.counted.came
            waits = (waits or socket.counted.held.large) and wire.is_reading()
        if socket.queue.has_stalled(self._stall_seconds):
            log.info("reader_stopped", seconds=self._stall_seconds)
            self._background(self.eio.disconnect(eio_sid))
        elif held.lags(self._stall_seconds, came, waits):
            log.info("message_stalled", seconds=self._stall_seconds)
            self._background(self._refuse(eio_sid, Stalled("message", self._stall_seconds)))
        else:
            asyncio.get_running_loop().call_later(self._stall_seconds / HASTE, self._watch, eio_sid)

    async def _refuse(self, eio_sid: str, error: ServiceError) -> None:
        """Answer what is not whole, and close its connection."""
        await self._send_eio_packet(eio_sid, refusal(error))
        await self.eio.disconnect(eio_sid)

    def _expect_connect(self, eio_sid: str) -> None:
        asyncio.get_running_loop().call_later(self._connect_seconds, self._close_unconnected, eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        try:
            await self._match_attachments(eio_sid, data)
            await super()._handle_eio_message(eio_sid, data)
        except (ContentTooLongError, RateLimited, QueueFull) as exc:
            await self._refuse(eio_sid, exc if isinstance(exc, ServiceError) else too_large())
        except (ValueError, TypeError) as exc:
            log.info("packet_refused", error=type(exc).__name__)
            await self._handle_event(eio_sid, "/", None, malformed())

    async def _match_attachments(self, eio_sid: str, data: Any) -> None:
        """Refuse an event whose attachments do not come, and count those that do.

        Raises: ValueError for what is no packet, nor awaited; RateLimited, QueueFull.
        """
        awaiting = self._binary_packet.get(eio_sid)
        if not isinstance(data, (str, bytes)):
            raise ValueError("JSON, where engineio took a packet's text for that")
        if isinstance(data, bytes) and awaiting is None:
            raise ValueError("an attachment that no event announced")
        if isinstance(data, bytes) and eio_sid in self._held:
            self._held[eio_sid].add(len(data))
        if isinstance(data, str) and awaiting is not None:
            del self._binary_packet[eio_sid]
            await self._handle_event(eio_sid, awaiting.namespace, awaiting.id, malformed())

    def _close_unconnected(self, eio_sid: str) -> None:
        if eio_sid in self.eio.sockets and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            self._background(self.eio.disconnect(eio_sid))

    async def _handle_disconnect(self, eio_sid: str, namespace: str | None, reason: str | None = None) -> None:
        await super()._handle_disconnect(eio_sid, namespace, reason)
        self._expect_connect(eio_sid)  # it may connect anew, but not stay open without

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        socket = self._sockets.pop(eio_sid, None)  # first, so that nobody watches one that is half gone
        self._in_hand.pop(eio_sid, None)
        self._binary_packet.pop(eio_sid, None)
        if eio_sid in self._peers:
            self._sessions.give_back(self._peers.pop(eio_sid))
            self._held.pop(eio_sid).clear()
        await super()._handle_eio_disconnect(eio_sid, reason)
        if socket is not None:
            loop = asyncio.get_running_loop()
            socket.queue.close()
            loop.call_soon(socket.queue.put_nowait, None)  # after engineio's last packet: a pending poll returns
            loop.call_later(self._close_seconds, _cut, socket)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        await super()._handle_connect(eio_sid, namespace, data)
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if sid is not None and self.manager.is_connected(sid, "/"):
            await self._on_connected(sid)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace or "/")
        gate, held = self._in_hand.get(eio_sid), self._held.get(eio_sid)
        if gate is None or held is None or not self.manager.is_connected(sid, namespace or "/"):
            return
        self._held[eio_sid] = held.beside()
        await gate.acquire()
        outbound = self.outbound(sid)
        if outbound is not None:
            await outbound.drained.wait()
        named = isinstance(data, list) and data and isinstance(data[0], str)
        event = data if named else [None, data if isinstance(data, Unreadable) else malformed()]
        self._background(self._answer(eio_sid, sid, id, event, gate)).add_done_callback(lambda _: held.clear())

    async def _answer(self, eio_sid: str, sid: str, ack: int | None, data: list[Any], gate: asyncio.Semaphore) -> None:
        try:
            reply = await self._on_event(sid, data[0], data[1:], ack is not None)
            if ack is not None and eio_sid in self.eio.sockets:
                await self._send_eio_packet(eio_sid, Outgoing([b"3%d[" % ack, reply or b"null", b"]"]))
        finally:
            gate.release()

    def _background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        return task


def _cut(socket: Any) -> None:
    wire = getattr(socket, "wire", None)  # long-polling has none of its own
    if wire is not None:
        wire.abort()
