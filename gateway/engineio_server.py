"""engineio's server with the edges that this server needs, each against a trap that was measured:

- a long-polling body that arrives in several segments, or holds more than 16 packets, is read whole (engineio's adapter
  takes the first segment only, and drops such a body with a 200); one that cannot be read is refused (`payloads`);
- websocket compression is off: it costs seven times the CPU and makes nothing smaller that is large here;
- what waits to be sent on a connection is counted, and goes out in pieces as the client takes it (`outbound`);
- a message that is too large, or is not whole yet and more than there is memory for, is answered before its connection
  is closed;
- an upgrade that stands still is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import engineio
import engineio.async_drivers.aiohttp as driver
from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web
from engineio import payload
from engineio.exceptions import EngineIOError

from contract.errors import ServiceError
from gateway.origins import peer_of
from gateway.outbound import BATCH_BYTES, Budget, OutboundQueue, Outgoing, frame
from gateway.packets import MAX_TRANSPORT_BYTES, refusal
from gateway.payloads import Payload
from gateway.seats import Seats
from gateway.unfinished import Held, held_of
from pipeline.intake import too_large

CONNECT_SECONDS = 10.0
LEAVE_SECONDS = 2.0
"""Seconds that a client which was told to leave may take, and that one which sent too much may go on unheard."""

payload.Payload = Payload


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


class _Counted:
    """Stands before a websocket's parser and counts what has come of a message that is not whole."""

    def __init__(self, socket: _Socket, held: Held, refuse: Callable[[ServiceError], None]) -> None:
        self._socket = socket
        self._parser: Any = socket._parser
        self._whole: Any = socket._reader
        self.held = held
        self.came = 0
        """Bytes, of all messages."""
        self._refuse = refuse

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._parser is None:
            return False, b""  # what still comes of a message that was refused
        self.came += len(data)
        before = len(self._whole._buffer)
        fed: tuple[bool, bytes] = self._parser.feed_data(data)
        if any(message.type in _MESSAGES for message, _ in islice(self._whole._buffer, before, None)):
            self.held.clear()
            return fed
        try:
            self.held.add(len(data))
        except ServiceError as exc:
            self.drop()
            self._refuse(exc)
        return fed

    def drop(self) -> None:
        """What there is of a message that will not become whole goes at once."""
        self._parser = self._socket._parser = None
        self.held.clear()

    def feed_eof(self) -> None:
        self._whole.feed_eof()


_MESSAGES = (WSMsgType.TEXT, WSMsgType.BINARY)


class _WebSocket(driver.WebSocket):
    _refused: ServiceError | None = None

    async def __call__(self, environ: dict[str, Any]) -> Any:
        request = environ["aiohttp.request"]
        limits = {"max_msg_size": self.server.max_http_buffer_size, "writer_limit": BATCH_BYTES}
        self._sock = _Socket(**limits, compress=False)
        self._flow = await self._sock.prepare(request)
        self._counted = request.protocol._payload_parser = _Counted(self._sock, held_of(request).beside(), self._refuse)
        self._wire = request.transport
        self.environ = environ
        socket = self.handler.__self__  # `gateway.wire` looks at these
        socket.wire, socket.counted = request.transport, self._counted
        loop = asyncio.get_running_loop()
        upgrading = loop.call_later(self.server.connect_seconds, self._cut_unless_upgraded, request)
        try:
            with self.server.counted(self):
                await self.handler(self)
        finally:
            upgrading.cancel()
            self._counted.drop()
        return self._sock

    def _refuse(self, error: ServiceError) -> None:
        """Of a message that is not whole."""
        self._refused = error
        assert self._sock._reader is not None, "it is prepared"
        self._sock._reader.set_exception(WebSocketError(WSCloseCode.MESSAGE_TOO_BIG, error.message))

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
        """A client that takes a piece is alive, though its answer to a ping must wait behind the others."""
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
            self._refused = self._refused or too_large()
            self._counted.drop()
            self.handler.__self__.queue.put_nowait(refusal(self._refused))
        if not isinstance(data, (str, bytes)) or (isinstance(data, str) and data[:1] not in _PACKET_TYPES):
            raise OSError("not an Engine.IO packet")  # engineio would leave the connection half open
        return data

    async def close(self) -> None:
        if self._refused is not None:
            with suppress(ConnectionError):
                await self._sock.send_frame(WSCloseCode.MESSAGE_TOO_BIG.to_bytes(2, "big"), WSMsgType.CLOSE)
                await asyncio.sleep(LEAVE_SECONDS)  # it still sends; cut off now, it might not read its answer
        await super().close()


_PACKET_TYPES = frozenset("0123456")


async def _next(message: Outgoing, pieces: Iterator[bytes]) -> bytes:
    """The next piece, empty at the end; a thread reads it where it lies on the disk."""
    return await asyncio.to_thread(next, pieces, b"") if message.has_files else next(pieces, b"")


class EngineServer(engineio.AsyncServer):
    connect_seconds = CONNECT_SECONDS

    sessions: Seats

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._async: dict[str, Any] = {**self._async, "translate_request": self._translate, "websocket": _WebSocket}
        self._budget = Budget()
        self._websockets: set[_WebSocket] = set()
        self._none_left = asyncio.Event()

    async def _translate(self, request: web.Request) -> dict[str, Any]:
        """Raises: QueueFull, RateLimited: a session lasts longer than the connections of its polls."""
        if "sid" not in request.query:
            self.sessions.check(peer_of(request))
        environ: dict[str, Any] = driver.translate_request(request)
        if "upgrade" not in environ.get("HTTP_CONNECTION", "").lower():
            environ.pop("HTTP_UPGRADE", None)  # engineio would begin a websocket, and then answer with no response
        if request.method == "POST" and request.query.get("sid") in self.sockets:
            body = await self._body(request)
            environ |= {"wsgi.input": _Body(body), "CONTENT_LENGTH": str(len(body))}
        return environ

    async def _body(self, request: web.Request) -> bytes:
        """Raises: HTTPRequestEntityTooLarge, which the session is told too; HTTPBadRequest, RateLimited, QueueFull."""
        body, announced, held = bytearray(), request.content_length or 0, held_of(request)
        session = self.sockets[request.query["sid"]]
        if announced <= MAX_TRANSPORT_BYTES:
            try:
                async for part in request.content.iter_any():
                    body += part
                    if len(body) > MAX_TRANSPORT_BYTES:
                        break
                    held.add(len(part))
                    session.posted = getattr(session, "posted", 0) + len(part)  # `gateway.wire` looks at it
                else:
                    return bytes(body)
            except web.RequestPayloadError as exc:
                raise web.HTTPBadRequest(text="The body is not what its headers say.") from exc
        if (socket := self.sockets.get(request.query["sid"])) is not None:
            socket.queue.put_nowait(refusal(too_large()))
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
                await asyncio.wait_for(self._none_left.wait(), LEAVE_SECONDS)

    def create_queue(self, *args: Any, **kwargs: Any) -> OutboundQueue:
        return OutboundQueue(self._budget)

    async def disconnect(self, sid: str | None = None) -> None:
        """Without waiting until everything was read, as engineio does: some never read."""
        socket = self.sockets.pop(sid, None)
        if socket is not None:
            await socket.close(wait=False, reason=self.reason.SERVER_DISCONNECT)
