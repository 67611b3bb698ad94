"""python-socketio's server with the edges that this server needs, each against a trap that was measured:

- a long-polling body that arrives in several segments, or holds more than 16 packets, is read whole (engineio's adapter
  takes the first segment only, and drops such a body with a 200);
- websocket compression is off: it costs seven times the CPU and makes nothing smaller that is large here;
- what waits to be sent on a connection is counted, goes out in pieces as the client takes it, and a client that takes
  nothing for long is closed (`outbound`);
- a client that does not read its answers, or has many messages in hand, is no longer read from (TCP does the rest);
- a connection that never says CONNECT is closed, and closed means closed: engineio only asks the client to leave;
- a packet that is not JSON, or whose binary parts do not fit, is answered like any other bad message;
- an upgrade that stands still is closed, and a long-polling body that cannot be read is refused (`payloads`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import engineio
import engineio.async_drivers.aiohttp as driver
import orjson
import socketio
import structlog
from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web
from engineio import payload
from engineio.exceptions import ContentTooLongError, EngineIOError
from socketio import packet as packets

from gateway.outbound import BATCH_BYTES, HASTE, Budget, OutboundQueue, Outgoing, frame
from gateway.payloads import Payload
from pipeline.errors import InvalidInput, ServiceError, TooLarge, as_failure
from pipeline.intake import MAX_CONTENT_BYTES, check_text, id_in

log = structlog.get_logger()

MAX_TRANSPORT_BYTES = 16 * 1024 * 1024
MAX_IN_HAND = 16
"""Messages of one connection that are being answered at once."""
STALL_SECONDS = 60.0
"""A connection that takes nothing of what there is for it is closed after this; it may resume."""
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 2.0
"""What a connection that is being closed may still take to send; then it is cut."""

payload.Payload = Payload

OnEvent = Callable[[str, str | None, list[Any], bool], Awaitable[bytes | None]]
"""(sid, event, arguments, whether an acknowledgement was asked for) → the acknowledgement as JSON, or None.

event: None for a packet that cannot be read; an `Unreadable` is then its only argument.
"""


class Json:
    """orjson with the calls that python-socketio makes."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """Raises: orjson.JSONDecodeError; TooMany, before anything is made of it."""
        try:
            check_text(text)
        except TooLarge as exc:
            raise TooMany(exc) from exc
        return orjson.loads(text)


class TooMany(ValueError):
    """JSON of more values than a message may hold."""

    def __init__(self, error: TooLarge) -> None:
        super().__init__(error.message)
        self.error = error


class _Body:
    """The body of a long-polling request, which was read whole."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, length: int) -> bytes:
        """Raises: EngineIOError when it is not UTF-8."""
        try:
            self._content.decode()
        except UnicodeDecodeError as exc:
            raise EngineIOError from exc
        return self._content


class _Socket(web.WebSocketResponse):
    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            return False  # `_WebSocket` answers first
        return await super().close(code=code, message=message, drain=drain)


class _WebSocket(driver.WebSocket):
    _oversized = False

    async def __call__(self, environ: dict[str, Any]) -> Any:
        request = environ["aiohttp.request"]
        limits = {"max_msg_size": self.server.max_http_buffer_size, "writer_limit": BATCH_BYTES}
        self._sock = _Socket(**limits, compress=False)
        self._flow = await self._sock.prepare(request)
        self._wire = request.transport
        self.environ = environ
        self.handler.__self__.wire = request.transport
        loop = asyncio.get_running_loop()
        upgrading = loop.call_later(self.server.connect_seconds, self._cut_unless_upgraded, request)
        try:
            with self.server.counted(self):
                await self.handler(self)
        finally:
            upgrading.cancel()
        return self._sock

    async def send(self, message: Any) -> None:
        if not isinstance(message, Outgoing):
            await super().send(message)
            return
        opcode, start = (WSMsgType.BINARY, b"") if message.binary else (WSMsgType.TEXT, b"4")
        if (content := message.at_once()) is not None:
            await self._sock.send_frame(start + content, opcode)
            return
        pieces = message.pieces()
        piece = start + await _next(message, pieces)
        while following := await _next(message, pieces):
            self._write(piece, opcode, last=False)
            await self._flow.drain()
            self._alive()
            piece, opcode = following, WSMsgType.CONTINUATION
        self._write(piece, opcode, last=True)
        await self._flow.drain()

    def _write(self, piece: bytes, opcode: WSMsgType, *, last: bool) -> None:
        if self._wire.is_closing():
            raise ConnectionResetError
        self._wire.write(frame(piece, opcode, last=last))

    def _alive(self) -> None:
        """Who takes a piece is there, though the answer to a ping must wait behind the others."""
        socket = self.handler.__self__
        socket.queue.moved()
        if socket.last_ping:
            socket.last_ping = time.time()

    def _cut_unless_upgraded(self, request: web.Request) -> None:
        if not self.handler.__self__.upgraded and request.transport is not None:
            request.transport.abort()

    async def wait(self) -> str | bytes:
        data = (await self._sock.receive()).data
        if isinstance(data, WebSocketError) and data.code == WSCloseCode.MESSAGE_TOO_BIG:
            self._oversized = True
            self.handler.__self__.queue.put_nowait(refusal(_too_large()))
        if not isinstance(data, (str, bytes)) or (isinstance(data, str) and data[:1] not in _PACKET_TYPES):
            raise OSError("not an Engine.IO packet")  # engineio would leave the connection half open
        return data

    async def close(self) -> None:
        if self._oversized:
            with suppress(ConnectionError):
                await self._sock.send_frame(WSCloseCode.MESSAGE_TOO_BIG.to_bytes(2, "big"), WSMsgType.CLOSE)
                await asyncio.sleep(CLOSE_SECONDS)  # it still sends; cut off now, it might not read its answer
        await super().close()


_PACKET_TYPES = frozenset("0123456")


async def _next(message: Outgoing, pieces: Iterator[bytes]) -> bytes:
    """The next piece, empty at the end; a thread reads it where it lies on the disk."""
    return await asyncio.to_thread(next, pieces, b"") if message.has_files else next(pieces, b"")


class _EngineServer(engineio.AsyncServer):
    connect_seconds = CONNECT_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._async: dict[str, Any] = {**self._async, "translate_request": self._translate, "websocket": _WebSocket}
        self._budget = Budget()
        self._websockets: set[_WebSocket] = set()
        self._none_left = asyncio.Event()

    async def _translate(self, request: web.Request) -> dict[str, Any]:
        environ: dict[str, Any] = driver.translate_request(request)
        if request.method == "POST" and request.query.get("sid") in self.sockets:
            body = await self._body(request)
            environ |= {"wsgi.input": _Body(body), "CONTENT_LENGTH": str(len(body))}
        return environ

    async def _body(self, request: web.Request) -> bytes:
        """Raises: HTTPRequestEntityTooLarge, which is also told to the session; HTTPBadRequest."""
        body, announced = bytearray(), request.content_length or 0
        if announced <= MAX_TRANSPORT_BYTES:
            try:
                async for part in request.content.iter_any():
                    body += part
                    if len(body) > MAX_TRANSPORT_BYTES:
                        break
                else:
                    return bytes(body)
            except web.RequestPayloadError as exc:
                raise web.HTTPBadRequest(text="The body is not what its headers say.") from exc
        if (socket := self.sockets.get(request.query["sid"])) is not None:
            socket.queue.put_nowait(refusal(_too_large()))
        raise web.HTTPRequestEntityTooLarge(MAX_TRANSPORT_BYTES, max(announced, len(body)))

    @contextmanager
    def counted(self, websocket: _WebSocket) -> Iterator[None]:
        self._websockets.add(websocket)
        self._none_left.clear()
        try:
            yield
        finally:
            self._websockets.discard(websocket)
            if not self._websockets:
                self._none_left.set()

    async def shutdown(self) -> None:
        """When everybody has been told to leave: aiohttp, once it closes, no longer hears that they do."""
        await super().shutdown()
        if self._websockets:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), CLOSE_SECONDS)

    def create_queue(self, *args: Any, **kwargs: Any) -> OutboundQueue:
        return OutboundQueue(self._budget)

    async def disconnect(self, sid: str | None = None) -> None:
        """Without waiting until everything was read, as engineio does: some never read."""
        socket = self.sockets.pop(sid, None)
        if socket is not None:
            await socket.close(wait=False, reason=self.reason.SERVER_DISCONNECT)


class _Packet(packets.Packet):
    """A Socket.IO packet of which every event can be answered, whatever stands in it."""

    packet_type: int
    held = 0

    def decode(self, encoded_packet: str) -> int:
        """How many attachments follow. What cannot be read is MALFORMED, and answered when they have come."""
        try:
            announced = super().decode(encoded_packet) or 0
        except (orjson.JSONDecodeError, TooMany) as exc:
            if self.packet_type not in (packets.CONNECT, packets.EVENT, packets.BINARY_EVENT):
                raise
            self.data = Unreadable(exc.error, id_in(encoded_packet)) if isinstance(exc, TooMany) else MALFORMED
            found = _ANNOUNCED.match(encoded_packet)
            announced = int(found[1]) if found else 0
        if self.packet_type == packets.BINARY_EVENT and not announced:
            self.packet_type = packets.EVENT  # else the next packet would be taken for its attachment
        return announced

    def add_attachment(self, attachment: bytes) -> bool:
        """True when it was the last. Raises: ContentTooLongError."""
        self.held += len(attachment) + 64
        if self.held > MAX_TRANSPORT_BYTES:
            raise ContentTooLongError
        try:
            return bool(super().add_attachment(attachment))
        except (LookupError, TypeError, RecursionError):  # a placeholder that refers to nothing
            self.data = MALFORMED
            return True


class Unreadable(NamedTuple):
    """Stands for the data of an event that cannot be read. id: the client's own, where it could be seen."""

    error: ServiceError
    id: Any = None


MALFORMED = Unreadable(
    InvalidInput("This packet is not an event with JSON in it: numbers must be finite, and text whole Unicode.")
)


def refusal(error: ServiceError) -> Outgoing:
    """What is said of a message that nobody can answer by name."""
    body = {"type": None, "id": None, "job_id": None, "status": "error", **as_failure(error)}
    return Outgoing([b'2["message",', orjson.dumps(body), b"]"])


def _too_large() -> TooLarge:
    limit = MAX_CONTENT_BYTES // 2**20
    return TooLarge(f"A message may carry {limit} MiB; upload larger files with POST /files and send their file_id.")


_ANNOUNCED = re.compile("5([0-9]{1,9})-")


class SocketServer(socketio.AsyncServer):
    """on_event: answers every event of every connection; on_connected: called with the sid of a new one."""

    def __init__(
        self,
        on_event: OnEvent,
        on_connected: Callable[[str], Awaitable[None]],
        connect_seconds: float = CONNECT_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        super().__init__(
            async_mode="aiohttp",
            json=Json,
            serializer=_Packet,
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
        self._in_hand: dict[str, asyncio.Semaphore] = {}
        self._sockets: dict[str, Any] = {}
        self._answers: set[asyncio.Task[None]] = set()

    def outbound(self, sid: str) -> OutboundQueue | None:
        """What waits to be sent to a connection; None when it is gone."""
        socket = self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, "/"))
        return socket.queue if socket else None

    async def deliver(self, sid: str, packets: list[Outgoing]) -> None:
        """Put packets on their way to a connection; nothing happens when it is gone."""
        eio_sid = self.manager.eio_sid_from_sid(sid, "/")
        for packet in packets:
            await self._send_eio_packet(eio_sid, packet)

    def _engineio_server_class(self) -> type[engineio.AsyncServer]:
        return _EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self._in_hand[eio_sid] = asyncio.Semaphore(MAX_IN_HAND)
        self._sockets[eio_sid] = self.eio.sockets[eio_sid]
        self._expect_connect(eio_sid)
        self._watch(eio_sid)

    def _watch(self, eio_sid: str) -> None:
        """Close a connection that takes nothing for too long."""
        socket = self._sockets.get(eio_sid)
        if socket is None:
            return
        if not socket.queue.has_stalled(self._stall_seconds):
            asyncio.get_running_loop().call_later(self._stall_seconds / HASTE, self._watch, eio_sid)
            return
        log.info("reader_stopped", seconds=self._stall_seconds)
        self._background(self.eio.disconnect(eio_sid))

    def _expect_connect(self, eio_sid: str) -> None:
        asyncio.get_running_loop().call_later(self._connect_seconds, self._close_unconnected, eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        try:
            await self._match_attachments(eio_sid, data)
            await super()._handle_eio_message(eio_sid, data)
        except ContentTooLongError:
            await self._send_eio_packet(eio_sid, refusal(_too_large()))
            await self.eio.disconnect(eio_sid)
        except (ValueError, TypeError) as exc:
            log.info("packet_refused", error=type(exc).__name__)
            await self._handle_event(eio_sid, "/", None, MALFORMED)

    async def _match_attachments(self, eio_sid: str, data: Any) -> None:
        """Refuse an event whose attachments do not come. Raises: ValueError for what is no packet, nor awaited."""
        awaiting = self._binary_packet.get(eio_sid)
        if not isinstance(data, (str, bytes)):
            raise ValueError("JSON, where engineio took a packet's text for that")
        if isinstance(data, bytes) and awaiting is None:
            raise ValueError("an attachment that no event announced")
        if isinstance(data, str) and awaiting is not None:
            del self._binary_packet[eio_sid]
            await self._handle_event(eio_sid, awaiting.namespace, awaiting.id, MALFORMED)

    def _close_unconnected(self, eio_sid: str) -> None:
        if eio_sid in self.eio.sockets and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            self._background(self.eio.disconnect(eio_sid))

    async def _handle_disconnect(self, eio_sid: str, namespace: str | None, reason: str | None = None) -> None:
        await super()._handle_disconnect(eio_sid, namespace, reason)
        self._expect_connect(eio_sid)  # it may connect anew, but not stay open without

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self._in_hand.pop(eio_sid, None)
        self._binary_packet.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)
        socket = self._sockets.pop(eio_sid, None)
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
        gate = self._in_hand.get(eio_sid)
        if gate is None or not self.manager.is_connected(sid, namespace or "/"):
            return
        await gate.acquire()
        outbound = self.outbound(sid)
        if outbound is not None:
            await outbound.drained.wait()
        named = isinstance(data, list) and data and isinstance(data[0], str)
        event = data if named else [None, data if isinstance(data, Unreadable) else MALFORMED]
        self._background(self._answer(eio_sid, sid, id, event, gate))

    async def _answer(self, eio_sid: str, sid: str, ack: int | None, data: list[Any], gate: asyncio.Semaphore) -> None:
        try:
            reply = await self._on_event(sid, data[0], data[1:], ack is not None)
            if ack is not None and eio_sid in self.eio.sockets:
                await self._send_eio_packet(eio_sid, Outgoing([b"3%d[" % ack, reply or b"null", b"]"]))
        finally:
            gate.release()

    def _background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


def _cut(socket: Any) -> None:
    wire = getattr(socket, "wire", None)  # long-polling has none of its own
    if wire is not None:
        wire.abort()
