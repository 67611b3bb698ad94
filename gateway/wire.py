"""python-socketio's server with the edges that this server needs, each against a trap that was measured:

- a long-polling body that arrives in several segments is read whole (engineio's adapter takes the first only);
- websocket compression is off: it costs seven times the CPU and makes nothing smaller that is large here;
- what waits to be sent on a connection is counted, so that a reader who stops costs bounded memory;
- a client that does not read its answers, or has many messages in hand, is no longer read from (TCP does the rest);
- a connection that never says CONNECT is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import engineio
import engineio.async_drivers.aiohttp as driver
import orjson
import socketio
from aiohttp import web
from socketio import packet as packets

MAX_TRANSPORT_BYTES = 16 * 1024 * 1024
HIGH_WATER_BYTES = 4 * 1024 * 1024
"""Unsent beyond this, a connection gets nothing new until half of it is gone."""
MAX_IN_HAND = 128
"""Messages of one connection that are being answered at once."""
CONNECT_SECONDS = 10.0

OnEvent = Callable[[str, str, list[Any], bool], Awaitable[Any]]
"""(sid, event, arguments, whether an acknowledgement was asked for) → the acknowledgement, or None."""


class Json:
    """orjson with the calls that python-socketio makes."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return orjson.loads(text)


class OutboundQueue(asyncio.Queue[Any]):
    """A connection's packets on their way out, with their bytes counted."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.drained = asyncio.Event()
        self.drained.set()

    def _put(self, item: Any) -> None:
        super()._put(item)
        self.unsent += _size(item)
        if self.unsent > HIGH_WATER_BYTES:
            self.drained.clear()

    def _get(self) -> Any:
        item = super()._get()
        self.unsent -= _size(item)
        if self.unsent <= HIGH_WATER_BYTES // 2:
            self.drained.set()
        return item


def _size(packet: Any) -> int:
    data = getattr(packet, "data", None)
    return len(data) if isinstance(data, (str, bytes)) else 0


class _Body:
    """The body of a long-polling request, read whole."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    async def read(self, length: int) -> bytes:
        return await self._request.content.readexactly(length)


def _translate(request: web.Request) -> dict[str, Any]:
    environ: dict[str, Any] = driver.translate_request(request)
    environ["wsgi.input"] = _Body(request)
    return environ


class _WebSocket(driver.WebSocket):
    async def __call__(self, environ: dict[str, Any]) -> Any:
        self._sock = web.WebSocketResponse(max_msg_size=self.server.max_http_buffer_size, compress=False)
        await self._sock.prepare(environ["aiohttp.request"])
        self.environ = environ
        await self.handler(self)
        return self._sock


class _EngineServer(engineio.AsyncServer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._async: dict[str, Any] = {**self._async, "translate_request": _translate, "websocket": _WebSocket}

    def create_queue(self, *args: Any, **kwargs: Any) -> OutboundQueue:
        return OutboundQueue()


class SocketServer(socketio.AsyncServer):
    """on_event: answers every event of every connection; on_connected: called with the sid of a new one."""

    def __init__(self, on_event: OnEvent, on_connected: Callable[[str], Awaitable[None]], origins: list[str]) -> None:
        super().__init__(
            async_mode="aiohttp",
            json=Json,
            async_handlers=False,
            max_http_buffer_size=MAX_TRANSPORT_BYTES,
            http_compression=False,
            cors_allowed_origins=origins or None,
            cors_credentials=False,
        )
        self._on_event = on_event
        self._on_connected = on_connected
        self._in_hand: dict[str, asyncio.Semaphore] = {}
        self._answers: set[asyncio.Task[None]] = set()

    def outbound(self, sid: str) -> OutboundQueue | None:
        """What waits to be sent to a connection; None when it is gone."""
        socket = self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, "/"))
        return socket.queue if socket else None

    def _engineio_server_class(self) -> type[engineio.AsyncServer]:
        return _EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self._in_hand[eio_sid] = asyncio.Semaphore(MAX_IN_HAND)
        asyncio.get_running_loop().call_later(CONNECT_SECONDS, self._expect_connected, eio_sid)

    def _expect_connected(self, eio_sid: str) -> None:
        if eio_sid in self.eio.sockets and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            self._background(self.eio.disconnect(eio_sid))

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self._in_hand.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        await super()._handle_connect(eio_sid, namespace, data)
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if sid is not None and self.manager.is_connected(sid, "/"):
            await self._on_connected(sid)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: list[Any]) -> None:
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace or "/")
        gate = self._in_hand.get(eio_sid)
        if gate is None or not self.manager.is_connected(sid, namespace or "/"):
            return
        await gate.acquire()
        outbound = self.outbound(sid)
        if outbound is not None:
            await outbound.drained.wait()
        self._background(self._answer(eio_sid, sid, id, data, gate))

    async def _answer(self, eio_sid: str, sid: str, ack: int | None, data: list[Any], gate: asyncio.Semaphore) -> None:
        try:
            reply = await self._on_event(sid, data[0], data[1:], ack is not None)
            if ack is not None and eio_sid in self.eio.sockets:
                await self._send_packet(eio_sid, self.packet_class(packets.ACK, id=ack, data=[reply]))
        finally:
            gate.release()

    def _background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
