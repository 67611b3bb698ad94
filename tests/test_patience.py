"""A connection that stands still in the middle of something is closed, and leaves nothing; one that goes on is not."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.answers import answer_errors
from gateway.patience import LEAST_RATE, Patience
from gateway.wire import SocketServer
from tests.conftest import contract_like_server
from tests.peers import PATIENCE, Gate, Peer
from tests.servers import Server
from tests.test_contract import Polling, served

HOST = b"Host: localhost\r\n"
FORM = HOST + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999999\r\n\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
OWING = b"Content-Length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with contract_like_server(tmp_path_factory.mktemp("impatient"), STALL_SECONDS="0.5") as server:
        yield server
    assert not [line for line in server.log if '"exception"' in line or "Traceback" in line]


async def heard_until_closed(port: int, said: bytes) -> bytes:
    """What the server says until it closes a connection on which no more than this is said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", b""),
        (b"GET /heal", b""),
        (b"GET /health HTTP/1.1\r\nHost: local", b""),
        (b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n", b"200"),
        (b"GET /health HTTP/1.1\r\n" + HOST + b"\r\nGET /hea", b"200"),
        (b"GET /health HTTP/1.1\r\n" + HOST + OWING, b"200"),
        (b"POST /nowhere HTTP/1.1\r\n" + HOST + OWING, b"404"),
        (b"POST /jobs HTTP/1.1\r\nOrigin: http://evil.example\r\n" + HOST + OWING, b"403"),
        (b"POST /jobs HTTP/1.1\r\n" + HOST + OWING, b"400"),
        (b"POST /jobs HTTP/1.1\r\nExpect: 100-continue\r\n" + HOST + OWING[:-1], b"100"),
        (b"POST /jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12", b"400"),
        (b"POST /files HTTP/1.1\r\n" + FORM, b"400"),
        (b"POST /files HTTP/1.1\r\n" + FORM + PART, b"400"),
        (b"POST /files HTTP/1.1\r\n" + FORM + PART + b"x" * 2_000_000, b"400"),
        (b"POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\n" + HOST + OWING, b"400"),
    ],
    ids=lambda value: repr(value[:60]),
)
async def test_what_stands_still_is_closed_and_leaves_nothing(server: Server, said: bytes, status: bytes) -> None:
    heard = await heard_until_closed(server.port, said)
    assert heard[9:12] == status
    uploads = server.folder / "data_dir" / "uploads"
    assert not (uploads.is_dir() and list(uploads.iterdir()))


async def test_who_takes_nothing_of_any_answer_is_cut_off() -> None:
    over = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            over.set()

    app = web.Application(middlewares=[answer_errors, Patience(9999, reading=0.2).watch])
    app.router.add_get("/", endless)
    async with TestServer(app) as server:
        _, writer = await asyncio.open_connection(server.host, server.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        async with asyncio.timeout(PATIENCE):
            await over.wait()
        writer.transport.abort()


async def test_a_stalled_body_is_told_so(server: Server) -> None:
    heard = await heard_until_closed(server.port, b"POST /files HTTP/1.1\r\n" + FORM + PART + b"x" * 100_000)
    assert b'"INVALID_INPUT"' in heard
    assert b"send it again" in heard


async def test_a_byte_now_and_then_is_standing_still(server: Server) -> None:
    """One byte for each connection that is closed meanwhile: they take less time than a body may."""
    for head in (b"POST /jobs HTTP/1.1\r\n" + HOST + OWING, b"GET /health HTTP/1.1\r\nX-A: "):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            await heard_until_closed(server.port, b"")
            writer.write(b" ")
        with contextlib.suppress(ConnectionResetError):
            await ended
        writer.close()


async def test_a_stalled_polling_body_is_refused(server: Server) -> None:
    async with aiohttp.ClientSession() as http:
        polling = await Polling.open(http, server.url)
        heard = await heard_until_closed(server.port, f"POST {polling.path} HTTP/1.1\r\n".encode() + HOST + OWING)
        assert heard[9:12] == b"400"


async def test_waiting_for_an_answer_is_not_standing_still(server: Server, tmp_path: Path) -> None:
    """An event stream, a long poll and a websocket go on while others are closed for their silence, several times."""
    with Gate(tmp_path) as gate:
        async with Peer(server.url) as peer, Peer(server.url, peer.token, "polling") as polling, _http() as http:
            job_id = (await peer.ask(gate.message))["job_id"]
            headers = {"Authorization": f"Bearer {peer.token}"}
            async with http.get(f"{server.url}/jobs/{job_id}/events", headers=headers) as stream:
                for _ in range(4):
                    await heard_until_closed(server.port, b"")
                gate.open()
                assert b"event: message" in await stream.read()
            assert await peer.final(job_id) == await polling.final(job_id)


async def test_more_silent_connections_than_a_system_gives_files_keep_nobody_out(tmp_path: Path) -> None:
    few, most = 200, resource.getrlimit(resource.RLIMIT_NOFILE)
    server = contract_like_server(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(server.kill)
        for _ in range(2 * few):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            stack.callback(writer.close)
        async with _http() as http, http.get(f"{server.url}/health") as response:
            assert response.status == 200


def _http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))


async def test_a_slow_upload_that_goes_on_is_taken() -> None:
    """It takes longer in all than it may stand still; the clock is the connections that are closed meanwhile."""
    seconds = 3.0

    async def take(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async with _listening(take, seconds, idle=seconds / 10) as port:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            while loop.time() - began < seconds * 1.5:
                sent += LEAST_RATE
                yield b"x" * LEAST_RATE
                await heard_until_closed(port, b"")

        async with _http() as http, http.post(f"http://127.0.0.1:{port}/", data=pieces()) as response:
            assert (response.status, await response.text()) == (200, str(sent))


async def test_a_server_that_is_slow_itself_blames_nobody() -> None:
    """While nobody reads the body, it cannot go on."""
    closed = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        await closed.wait()
        return web.Response(text=str(len(await request.read())))

    body = b"x" * 4_000_000
    async with _listening(take, 0.2, idle=1.0) as port, _http() as http:
        sending = asyncio.create_task(http.post(f"http://127.0.0.1:{port}/", data=body))
        await heard_until_closed(port, b"")  # several times as long as a body may stand still
        closed.set()
        async with await sending as response:
            assert await response.text() == str(len(body))


@contextlib.asynccontextmanager
async def _listening(handler: web.RequestHandler | object, seconds: float, idle: float) -> AsyncIterator[int]:
    """The port of a server whose bodies may stand still for some seconds, and connections be idle for others."""
    app = web.Application(middlewares=[answer_errors, Patience(seconds).watch], client_max_size=1 << 30)
    app.router.add_post("/", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, keepalive_timeout=idle, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_an_upgrade_that_stands_still_is_closed() -> None:
    async def nothing(*_: object) -> None:
        return None

    server = SocketServer(nothing, nothing, connect_seconds=0.1)
    server.on("connect", lambda sid, environ: None)
    async with served(server) as url, _http() as http:
        polling = await Polling.open(http, url)
        websocket = polling.path.replace("transport=polling", "transport=websocket")
        for said in ((), ("2probe",)):
            async with http.ws_connect(url + websocket) as upgrade:
                for packet in said:
                    await upgrade.send_str(packet)
                async with asyncio.timeout(PATIENCE):
                    while (await upgrade.receive()).type is aiohttp.WSMsgType.TEXT:
                        pass
