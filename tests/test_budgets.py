"""What others make the server hold is bounded, for each address and in all (promise P15), and answered by type."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contract.errors import QueueFull, RateLimited
from gateway import unfinished
from gateway.answers import answer_errors, reply
from gateway.origins import Origins
from gateway.outbound import UNREAD_SECONDS
from gateway.patience import LEAST_RATE
from gateway.seats import Connections, Seats
from gateway.unfinished import FREE_BYTES, Held, Unfinished, whole_body
from gateway.wire import SocketServer
from tests.conftest import contract_like_server
from tests.peers import PATIENCE, Raw
from tests.test_contract import Polling, served

MEMORY = 1 << 20
PART = 200_000
"""Five of them are more than one address may have of the memory, and two are less."""
PROXY = ipaddress.ip_network("127.0.0.1")


def test_no_address_takes_the_memory_of_others() -> None:
    memory = Unfinished(1000)
    memory.take("a", 500)
    with pytest.raises(RateLimited):
        memory.take("a", 1)
    memory.take("b", 250)
    with pytest.raises(QueueFull):
        memory.take("b", 1)
    memory.take("c", 125)
    memory.give_back("a", 500)
    memory.take("c", 250)
    assert memory.used == 625


def test_small_messages_are_free() -> None:
    memory = Unfinished(0)
    for _ in range(100):
        Held(memory, "a").add(FREE_BYTES)
    with pytest.raises(RateLimited):
        Held(memory, "a").add(FREE_BYTES + 1)
    assert memory.used == 0


def socket_server(sessions: Seats | None = None, stall_seconds: float = UNREAD_SECONDS) -> SocketServer:
    """Takes every event, and acknowledges it with null."""

    async def nothing(*_: Any) -> None:
        return None

    async def greet(sid: str) -> None:
        await server.emit("session", {}, to=sid)

    server = SocketServer(nothing, greet, stall_seconds=stall_seconds, sessions=sessions)
    server.on("connect", lambda sid, environ, auth=None: None)
    return server


def unfinished_message() -> bytes:
    """The beginning of a frame of 1 MB."""
    return b"\x81\xff" + (1 << 20).to_bytes(8, "big") + b"\0\0\0\0" + b"4" * PART


async def refused(raw: Raw) -> str:
    """The error code with which a connection is closed."""
    code = str(orjson.loads((await raw.hear('42["message"'))[2:])[1]["error_code"])
    with pytest.raises(ConnectionError):
        await raw.hear("never")
    return code


async def test_unfinished_websocket_messages_are_bounded() -> None:
    memory = Unfinished(MEMORY)
    async with served(socket_server(), answer_errors, memory.count) as url, contextlib.AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(Raw(url)) for _ in range(5)]
        for raw in raws:
            wire = raw.socket._writer.transport
            assert wire is not None
            wire.write(unfinished_message())
        first, *_ = await asyncio.wait(
            [asyncio.ensure_future(refused(raw)) for raw in raws], return_when=asyncio.FIRST_COMPLETED
        )
        assert {task.result() for task in first} == {"RATE_LIMITED"}
        assert memory.used <= MEMORY // 2
    assert await _until(lambda: memory.used == 0)


async def test_a_ping_in_between_does_not_hide_what_is_unfinished() -> None:
    """Frames of 20 kB that end no message, each with a ping behind it."""
    memory = Unfinished(MEMORY)
    begin, go_on = b"\x01\xfe", b"\x00\xfe"
    async with served(socket_server(), answer_errors, memory.count) as url, Raw(url) as raw:
        wire = raw.socket._writer.transport
        assert wire is not None
        for number in range(2 * MEMORY // 20_000):
            head = go_on if number else begin
            wire.write(head + (20_000).to_bytes(2, "big") + bytes(4) + b"4" * 20_000 + b"\x89\x80" + bytes(4))
        assert await refused(raw) == "RATE_LIMITED"


async def test_attachments_that_do_not_come_are_counted() -> None:
    memory = Unfinished(MEMORY)
    async with served(socket_server(), answer_errors, memory.count) as url, Raw(url) as raw:
        await raw.say('459-["message",{"_placeholder":true,"num":0}]')
        for _ in range(5):
            await raw.say(b"x" * PART)
        assert await refused(raw) == "RATE_LIMITED"


async def test_messages_that_come_too_slowly_are_told_so_and_closed() -> None:
    """Those that began with much and then bring little are held no longer than those that bring nothing."""
    memory, seconds = Unfinished(MEMORY), 0.3
    server = socket_server(stall_seconds=seconds)
    async with served(server, answer_errors, memory.count) as url, Raw(url) as framed, Raw(url) as attached:
        wire = framed.socket._writer.transport
        assert wire is not None
        wire.write(unfinished_message())
        await attached.say('45999-["message",{"_placeholder":true,"num":0}]', b"x" * PART)
        refusals = [asyncio.ensure_future(refused(raw)) for raw in (framed, attached)]
        while not (await asyncio.wait(refusals, timeout=seconds / 10, return_when=asyncio.FIRST_COMPLETED))[0]:
            wire.write(b"x" * int(LEAST_RATE * seconds / 20))
            await attached.say(b"x")
        assert await asyncio.gather(*refusals) == ["INVALID_INPUT", "INVALID_INPUT"]
    assert await _until(lambda: memory.used == 0)


def test_whom_the_server_does_not_read_is_not_slow() -> None:
    held = Held(Unfinished(), "a")
    assert not held.lags(1e-9, came=0, waits=False)
    assert held.lags(1e-9, came=0, waits=True)


class Upload:
    """A large attachment on its way beside one that is whole, watched by a clock that is played."""

    def __init__(self, server: SocketServer, memory: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
        self._server = server
        self._memory = memory
        self._now = time.monotonic()
        monkeypatch.setattr(unfinished, "time", SimpleNamespace(monotonic=lambda: self._now))

    async def goes_on(self, write: Callable[[bytes], None], piece: bytes) -> None:
        """For longer than it may stand still, a piece every ten seconds."""
        [sid] = self._server.eio.sockets
        assert await _until(lambda: self._memory.used > 0)
        self._server._watch(sid)
        for _ in range(9):
            before = self._memory.used
            write(piece)
            assert await _until(lambda: self._memory.used >= before + len(piece) - FREE_BYTES)  # noqa: B023
            self._now += 10
            self._server._watch(sid)


ATTACHED = '452-7["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'


async def test_an_attachment_that_comes_slowly_after_another_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, server, piece = Unfinished(), socket_server(stall_seconds=60), b"x" * 50_000
    async with served(server, answer_errors, memory.count) as url, Raw(url) as raw:
        upload, wire = Upload(server, memory, monkeypatch), raw.socket._writer.transport
        assert wire is not None
        await raw.say(ATTACHED, b"x" * 100_000)
        wire.write(b"\x82\xff" + (10 * len(piece)).to_bytes(8, "big") + bytes(4))
        await upload.goes_on(wire.write, piece)
        wire.write(piece)
        assert await raw.acknowledged(7) is None
    assert await _until(lambda: memory.used == 0)


async def test_one_that_is_polled_is_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, server, piece = Unfinished(), socket_server(stall_seconds=60), b"xxxx" * 12_500
    async with served(server, answer_errors, memory.count) as url, aiohttp.ClientSession() as http:
        polling, upload = await Polling.open(http, url), Upload(server, memory, monkeypatch)
        await polling.post(f"{ATTACHED}\x1eb{'xxxx' * 25_000}")
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        head = f"POST {polling.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10 * len(piece) + 1}\r\n\r\n"
        writer.write(head.encode() + b"b")
        await upload.goes_on(writer.write, piece)
        writer.write(piece)
        assert b" 200 " in await reader.readline()
        assert "437[null]" in "".join(await polling.get())
        writer.close()


async def test_attachments_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, server = Unfinished(), socket_server(stall_seconds=60)
    async with served(server, answer_errors, memory.count) as url, aiohttp.ClientSession() as http:
        polling, upload = await Polling.open(http, url), Upload(server, memory, monkeypatch)
        await polling.post(f"{ATTACHED}\x1eb{'xxxx' * 25_000}")
        [sid] = server.eio.sockets
        server._watch(sid)
        upload._now += 61
        server._watch(sid)
        assert await _until(lambda: sid not in server.eio.sockets)
    assert await _until(lambda: memory.used == 0)


async def test_what_was_answered_is_held_no_more() -> None:
    memory = Unfinished(MEMORY)
    async with served(socket_server(), answer_errors, memory.count) as url, Raw(url) as raw:
        for number in range(5):
            await raw.say(f'451-{number}["message",{{"_placeholder":true,"num":0}}]', b"x" * PART)
            await raw.acknowledged(number)
            await raw.say(f'42{number}["message","{"x" * PART}"]')
            await raw.acknowledged(number)
        assert await _until(lambda: memory.used == 0)


async def _until(true: Any) -> bool:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0)
    return True


@contextlib.asynccontextmanager
async def bodies_under_way(path: str, url: str, count: int) -> AsyncIterator[list[bytes]]:
    """Answers to requests whose bodies of 1 MB have come in part."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 20}\r\n\r\n".encode()
    async with contextlib.AsyncExitStack() as stack:
        answers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(head + b"x" * PART)
            answers.append(asyncio.ensure_future(reader.read(20_000)))
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        yield [answer.result() for answer in done]
        for answer in answers:
            answer.cancel()


async def test_unfinished_bodies_are_bounded() -> None:
    async def take(request: web.Request) -> web.Response:
        return reply({"bytes": len(await whole_body(request))})

    memory = Unfinished(MEMORY)
    app = web.Application(middlewares=[answer_errors, memory.count])
    app.router.add_post("/", take)
    async with TestServer(app) as server:
        async with bodies_under_way("/", str(server.make_url("")).rstrip("/"), 5) as answers:
            assert all(b" 429 " in answer and b'"retry_after":' in answer for answer in answers)
        assert await _until(lambda: memory.used == 0)


async def test_unfinished_polling_bodies_are_bounded() -> None:
    memory = Unfinished(MEMORY)
    async with served(socket_server(), answer_errors, memory.count) as url, aiohttp.ClientSession() as http:
        polling = await Polling.open(http, url)
        async with bodies_under_way(polling.path, url, 5) as answers:
            assert all(b" 429 " in answer for answer in answers)


async def test_sessions_of_polling_are_bounded() -> None:
    async with served(socket_server(Seats(9, 2)), answer_errors) as url, aiohttp.ClientSession() as http:
        for _ in range(2):
            await Polling.open(http, url)
        async with http.get(f"{url}/socket.io/?EIO=4&transport=polling") as response:
            assert (response.status, (await response.json())["error_code"]) == (429, "RATE_LIMITED")


async def test_connections_beyond_an_addresss_are_told_so_and_closed(tmp_path: Path) -> None:
    settings = {"MAX_CONNECTIONS_PER_ADDRESS": "3", "MAX_CONNECTIONS": "9"}
    with contract_like_server(tmp_path, **settings) as server:
        async with contextlib.AsyncExitStack() as stack:
            opened = []
            for _ in range(4):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                stack.callback(writer.close)
                opened.append(reader)
            async with asyncio.timeout(PATIENCE):
                answer = await opened[3].read()
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b'"RATE_LIMITED"' in answer
        async with aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE):
            while (await http.get(f"{server.url}/health")).status != 200:
                continue  # it has not heard yet that the others are gone


async def test_behind_a_proxy_everybody_has_their_own() -> None:
    release = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await release.wait()
        return reply({})

    origins = Origins(proxies=[PROXY])
    connections = Connections(4, 2, origins)
    app = web.Application(middlewares=[answer_errors, origins.check, connections.check])
    app.router.add_get("/", wait)
    async with TestClient(TestServer(app)) as client:
        assert client.server.runner is not None
        assert client.server.runner.server is not None
        connections.guard(client.server.runner.server)

        async def ask(address: str) -> int:
            async with client.get("/", headers={"X-Forwarded-For": address}) as response:
                return response.status

        asked = [asyncio.ensure_future(ask("198.51.100.7")) for _ in range(3)]
        other = asyncio.ensure_future(ask("198.51.100.8"))
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [429]
        release.set()
        assert sorted(await asyncio.gather(*asked, other)) == [200, 200, 200, 429]
