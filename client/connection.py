"""One Socket.IO connection, from its handshake to its loss. It is never used again after that: `link` opens another.

    open(token) ── CONNECT ──▶ server ── `session` ──▶ session        (or OptivusError, ServerUnreachable)
    ask(message) ── `message` ──▶ server ── acknowledgement ──▶ dict  (or ConnectionLost)
    events ──▶ receive(name, data), in the order in which the server sent them

A fresh python-socketio client for each connection, and its own reconnection switched off: that one stops for good when
the server closes between the websocket's and Engine.IO's handshake (a TypeError ends its task), and takes a connection
that breaks just before `connect` returns for a live one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

import socketio

from .errors import OptivusError, ServerUnreachable, no_server_at

HANDSHAKE_SECONDS = 10.0
EVENTS = ("progress", "partial", "audio", "message")

Receive = Callable[[str, dict[str, Any]], None]


class ConnectionLost(Exception):
    """The connection ended before the acknowledgement came; whether the server had read the message is unknown."""


class Connection:
    """`session` is what the server said at the handshake; `lost` is done when the connection is."""

    def __init__(self, url: str, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self.url = url
        self.session: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._acks: set[asyncio.Future[dict[str, Any] | None]] = set()
        self._refusal: Any = None
        # The default limit of 4 MiB for an incoming message would close the connection on a large answer.
        self._sio = socketio.AsyncClient(
            reconnection=False, handle_sigint=False, websocket_extra_options={"max_msg_size": 0}
        )
        for event in EVENTS:
            self._sio.on(event, partial(receive, event))
        self._sio.on("session", self._greeted)
        self._sio.on("connect_error", self._refused)
        self._sio.on("disconnect", self._disconnected)

    @classmethod
    async def open(cls, url: str, token: str | None, receive: Receive) -> Self:
        """Connect as the client that `token` names, or as a new one. url: of the server, with no slash at its end.

        Raises: ServerUnreachable; OptivusError when the server answers and refuses.
        """
        connection = cls(url, receive)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await connection._sio.connect(
                    url,
                    auth={"token": token} if token else None,
                    transports=["websocket"],
                    socketio_path=f"{urlsplit(url).path}/socket.io",
                    wait_timeout=HANDSHAKE_SECONDS,
                )
                await asyncio.wait((connection.session, connection.lost), return_when=asyncio.FIRST_COMPLETED)
            if connection.lost.done() or connection._sio.eio.state != "connected":
                raise ConnectionLost
        except Exception as exc:
            # Wide on purpose: engineio lets TypeError, KeyError and others out when the other side is no Socket.IO
            # server or breaks off half-way; for the caller all of it is "not reachable", with the cause attached.
            await connection.close()
            raise connection._failure() from exc
        except asyncio.CancelledError:
            await connection.close()
            raise
        return connection

    async def ask(self, message: dict[str, Any], event: str = "message") -> dict[str, Any]:
        """Send a message and wait for its acknowledgement. Raises: ConnectionLost; TypeError when it is not JSON."""
        if self.lost.done():
            raise ConnectionLost
        ack: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._acks.add(ack)
        try:
            await self._sio.emit(event, message, callback=partial(_settle, ack))
            answer = await ack
        finally:
            self._acks.discard(ack)
        if answer is None:
            raise ConnectionLost
        return answer

    async def close(self) -> None:
        """End the connection; messages that wait for their acknowledgement get ConnectionLost."""
        self._disconnected()
        await self._sio.disconnect()

    def _greeted(self, session: dict[str, Any]) -> None:
        if not self.session.done():
            self.session.set_result(session)

    def _refused(self, reason: Any = None) -> None:
        self._refusal = reason

    def _disconnected(self, *_reason: Any) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        for ack in self._acks:
            if not ack.done():
                ack.set_result(None)

    def _failure(self) -> OptivusError:
        """Why the handshake failed. A refusing server says why in ``data`` of its CONNECT_ERROR packet."""
        reason = self._refusal
        if isinstance(reason, dict):
            said = reason.get("data")
            said = said[0] if isinstance(said, list) and said else said
            if isinstance(said, dict) and "error_code" in said:
                return OptivusError(str(said.get("message", "")), str(said["error_code"]), said.get("details"))
            if "message" in reason:
                return ServerUnreachable(f"The server at {self.url} refused the connection: {reason['message']}")
        return no_server_at(self.url)


def _settle(ack: asyncio.Future[dict[str, Any] | None], *answer: Any) -> None:
    if not ack.done():
        ack.set_result(answer[0] if answer and isinstance(answer[0], dict) else {})
