"""Clients of the contract, for tests: one as programs use it, one that says whatever bytes a test wants to say."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import socketio

PATIENCE = 30.0
"""Seconds after which an answer counts as missing."""

EVENTS = ("session", "progress", "partial", "audio", "message")

Body = dict[str, Any]


class Peer:
    """A python-socketio client that keeps what it hears, as (event, body) in order."""

    def __init__(
        self, url: str, token: str | None = None, transport: str = "websocket", path: str = "socket.io"
    ) -> None:
        self.heard: list[tuple[str, Body]] = []
        self._url = url
        self._token = token
        self._transport = transport
        self._path = path
        self._news = asyncio.Condition()
        self._sio = socketio.AsyncClient(
            reconnection=False, handle_sigint=False, websocket_extra_options={"max_msg_size": 0}
        )
        for event in EVENTS:
            self._sio.on(event, partial(self._take, event))

    async def __aenter__(self) -> Self:
        auth = {"token": self._token} if self._token else None
        await self._sio.connect(self._url, auth=auth, transports=[self._transport], socketio_path=self._path)
        session = await self.wait(lambda event, body: event == "session")
        self.client: str = session["client"]
        self.token: str = session["token"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._sio.disconnect()

    async def _take(self, event: str, body: Body) -> None:
        async with self._news:
            self.heard.append((event, body))
            self._news.notify_all()

    @property
    def connected(self) -> bool:
        return bool(self._sio.connected)

    async def wait(self, wanted: Callable[[str, Body], Any]) -> Body:
        """The first thing heard, now or later, that is wanted."""
        seen = 0
        async with asyncio.timeout(PATIENCE), self._news:
            while True:
                for event, body in self.heard[seen:]:
                    if wanted(event, body):
                        return body
                seen = len(self.heard)
                await self._news.wait()

    async def ask(self, *args: Any, event: str = "message") -> Any:
        """Send with an acknowledgement, and return that."""
        acknowledged: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self.tell(*args, event=event, callback=lambda *answer: acknowledged.set_result(answer[0]))
        async with asyncio.timeout(PATIENCE):
            return await acknowledged

    async def tell(self, *args: Any, event: str = "message", **options: Any) -> None:
        """Send; without a callback no acknowledgement is asked for."""
        await self._sio.emit(event, args or None, **options)

    async def final(self, job_id: str) -> Body:
        """A job's final answer."""
        return await self.wait(lambda event, body: event == "message" and is_final(body) and body["job_id"] == job_id)

    async def answer(self, message: Body) -> Body:
        """The final answer to a message that is accepted."""
        accepted = await self.ask(message)
        assert accepted["status"] == "accepted", accepted
        return await self.final(accepted["job_id"])

    async def settle(self) -> None:
        """Return when everything that the server has said to this connection so far was heard."""
        await self.ask({"type": "jobs"})

    def of(self, job_id: str, kind: str | None = None) -> list[Body]:
        """What was heard of a job so far, progress hints left out."""
        return [
            body
            for event, body in self.heard
            if body.get("job_id") == job_id and event not in ("session", "progress") and kind in (None, event)
        ]


def is_final(body: Body) -> bool:
    return "seq" in body


class Raw:
    """An Engine.IO websocket by hand: `say` takes packets as they stand on the wire.

    4 is Engine.IO's message, and within it 0 Socket.IO's CONNECT, 2 its EVENT, 3 its ACK and 5 its BINARY_EVENT; see
    socket.io-protocol and engine.io-protocol, revisions 5 and 4.
    """

    def __init__(self, url: str, token: str | None = None, read: bool = True) -> None:
        """read: False makes a client that never reads after its CONNECT."""
        self._url = f"{url}/socket.io/?EIO=4&transport=websocket"
        self._connect = "40" + (orjson.dumps({"token": token}).decode() if token else "")

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        self.socket = await self._http.ws_connect(self._url, max_msg_size=0, compress=15)
        await self.hear("0")
        await self.say(self._connect)
        self.session = orjson.loads((await self.hear('42["session"'))[2:])[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def say(self, *packets: str | bytes) -> None:
        for packet in packets:
            await (self.socket.send_str(packet) if isinstance(packet, str) else self.socket.send_bytes(packet))

    async def hear(self, start: str) -> str:
        """The next packet that begins so. Raises: ConnectionError when the server closed."""
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    if message.data.startswith(start):
                        return str(message.data)
                elif message.type is not aiohttp.WSMsgType.BINARY:
                    raise ConnectionError(message)

    async def acknowledged(self, number: int) -> Any:
        """The acknowledgement of that number."""
        start = f"43{number}["
        return orjson.loads((await self.hear(start))[len(start) - 1 :])[0]

    async def is_alive(self) -> bool:
        """Whether the server still answers here."""
        await self.say('4277777["message",{"type":"jobs"}]')
        try:
            return bool((await self.acknowledged(77777))["status"] == "success")
        except ConnectionError:
            return False


class Gate:
    """A file at which `contract_hold` waits for as long as the test holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"gate-{os.urandom(8).hex()}"

    def __enter__(self) -> Self:
        self._file = self.path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *exc: object) -> None:
        self.open()

    @property
    def message(self) -> Body:
        return {"type": "contract_hold", "gate": str(self.path)}

    def open(self) -> None:
        """Let all that wait here, and will, go on."""
        self._file.close()
