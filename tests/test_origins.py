"""By which names the server may be called, whose pages may use it, and what stands behind a reverse proxy."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.answers import answer_errors, reply
from gateway.origins import ADDRESS, Origins, is_local, name_of
from tests.below import PREFIX, Below
from tests.conftest import LISTED_ORIGIN, contract_like_server
from tests.peers import Peer
from tests.servers import Server
from tests.test_node import Node, node

__all__ = ["node"]

LOCAL = (
    "127.0.0.1",
    "127.0.0.1:5000",
    "localhost",
    "LOCALHOST:5000",
    "localhost.",
    "a.localhost:1",
    "[::1]:5000",
    "[fe80::1%25eth0]",
    "192.168.1.7:5000",
    "8.8.8.8",
    "optivus",
    "optivus:5000",
    "box.local",
    "box.lan:80",
    "nas.home.arpa",
    "host.docker.internal",
    "optivus.default.svc.cluster.local",
)
STRANGE = (
    "evil.example",
    "evil.example:5000",
    "evil.example.",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evillocal.example",
    "127.0.0.1.nip.io:5000",
    "fritz.box",
    "1.2.3",
    "a:b:c",
)


@pytest.mark.parametrize("host", LOCAL)
def test_names_that_nobody_elsewhere_can_take_are_local(host: str) -> None:
    assert is_local(name_of(host))


@pytest.mark.parametrize("host", STRANGE)
def test_names_that_can_be_registered_are_not(host: str) -> None:
    assert not is_local(name_of(host))


# At every door of a real server.


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


DOORS = (
    ("GET", "/"),
    ("GET", "/health"),
    ("POST", "/jobs"),
    ("POST", "/files"),
    ("OPTIONS", "/jobs"),
    ("GET", "/no/such/path"),
    ("GET", "/socket.io/?EIO=4&transport=polling"),
)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5000", "localhost.evil.example"])
async def test_a_rebound_name_is_refused_at_every_door(http: aiohttp.ClientSession, url: str, host: str) -> None:
    for origin in ({}, {"Origin": f"http://{host}"}):
        for method, path in DOORS:
            async with http.request(method, url + path, headers={"Host": host, **origin}) as response:
                answer = await response.json()
            assert (response.status, answer["error_code"]) == (403, "HOST_FORBIDDEN")
            assert "ALLOWED_HOSTS=" + host.partition(":")[0] in answer["message"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", headers={"Host": host, **origin})
        assert refused.value.status == 403


async def test_the_second_of_two_hosts_counts_too(contract_server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", contract_server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert b" 40" in await reader.readline()
    writer.close()


async def test_a_foreign_origin_is_told_what_to_set(http: aiohttp.ClientSession, url: str) -> None:
    for origin, advice in (
        ("https://media.example", "CORS_ORIGINS=https://media.example"),
        ("null", None),
        ("http://a b", "CORS_ORIGINS"),
    ):
        async with http.post(f"{url}/jobs", headers={"Origin": origin}) as response:
            answer = await response.json()
        assert (response.status, answer["error_code"]) == (403, "ORIGIN_FORBIDDEN")
        assert (advice or "use this server.") in answer["message"]
        assert ("CORS_ORIGINS" in answer["message"]) is bool(advice)


async def test_the_host_of_a_listed_origin_is_a_name_of_the_server(http: aiohttp.ClientSession, url: str) -> None:
    host = LISTED_ORIGIN.removeprefix("https://")
    async with http.get(f"{url}/health", headers={"Host": host}) as response:
        assert response.status == 200


# What the settings say.


async def told(origins: Origins, **headers: str) -> tuple[int, Any]:
    """(status, body) of a server that says by which address it was asked; `_` in a header's name is `-`."""

    async def say(request: web.Request) -> web.Response:
        return reply(request[ADDRESS]._asdict())

    app = web.Application(middlewares=[answer_errors, origins.check])
    app.router.add_get("/", say)
    async with TestClient(TestServer(app)) as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with client.get("/", headers=named) as response:
            return response.status, await response.json()


async def test_allowed_hosts_and_own_names_are_known() -> None:
    def own_names() -> tuple[str, ...]:
        return "box", "Box.corp.example"

    for allowed, host, status in (
        (("media.example",), "media.example:8080", 200),
        (("media.example",), "MEDIA.example", 200),
        (("media.example",), "other.example", 403),
        (("media.example",), "a.media.example", 403),
        (("*",), "other.example", 200),
        ((), "box.corp.example", 200),
        ((), "corp.example", 403),
    ):
        assert (await told(Origins((), allowed, (), own_names), Host=host))[0] == status, (allowed, host)
    assert (await told(Origins(("*",)), Host="other.example", Origin="http://x.example"))[0] == 200


PROXIED = {
    "Host": "127.0.0.1:5000",
    "X_Forwarded_Host": "media.example",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Prefix": "/media/",
}


async def test_a_trusted_proxy_says_how_the_server_is_called() -> None:
    proxies = (ipaddress.ip_network("127.0.0.0/8"),)
    trusting = Origins((), ("media.example",), proxies)
    status, address = await told(trusting, **PROXIED, Origin="https://media.example")
    assert (status, address) == (
        200,
        {"host": "media.example", "origin": "https://media.example", "prefix": "/media"},
    )
    assert (await told(trusting, **PROXIED, Origin="https://evil.example"))[1]["error_code"] == "ORIGIN_FORBIDDEN"
    rebound = {**PROXIED, "X_Forwarded_Host": "evil.example"}
    assert (await told(trusting, **rebound))[1]["error_code"] == "HOST_FORBIDDEN"
    # A page that had its own name resolved to the server may say what it likes in these headers.
    assert (await told(trusting, **{**PROXIED, "Host": "evil.example"}))[1]["error_code"] == "HOST_FORBIDDEN"


async def test_nobody_else_is_believed() -> None:
    for proxies in ((), (ipaddress.ip_network("10.0.0.0/8"),)):
        status, address = await told(Origins((), ("media.example",), proxies), **PROXIED)
        assert (status, address["host"], address["prefix"]) == (200, "127.0.0.1:5000", "")
        refused = await told(Origins((), ("media.example",), proxies), **PROXIED, Origin="https://media.example")
        assert refused[1]["error_code"] == "ORIGIN_FORBIDDEN"


# Behind a proxy, below a path.


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with contract_like_server(tmp_path_factory.mktemp("proxied"), TRUSTED_PROXIES="127.0.0.1") as server:
        yield server


def visit(node: Node, url: str) -> Any:
    """What came of opening the page there and sending a message with it."""
    printed = node.run([node.node, "page.mjs", url, json.dumps({"type": "contract_echo", "partials": 2})])
    return json.loads(printed)


async def test_the_page_works_below_a_path(node: Node, proxied: Server) -> None:
    async with Below(proxied) as below:
        below.headers |= {"X-Forwarded-Host": f"127.0.0.1:{below.port}", "X-Forwarded-Prefix": PREFIX}
        heard = await asyncio.to_thread(visit, node, f"{below.url}/")
        assert (heard["done"], heard["error"]) == (True, None)
        assert f"POST {PREFIX}/jobs" in heard["asked"]
        assert all(request.split()[1].startswith(f"{PREFIX}/") for request in heard["asked"])


async def test_the_page_shows_what_to_set_when_the_proxy_hides_its_origin(node: Node, contract_server: Server) -> None:
    async with Below(contract_server) as below:
        heard = await asyncio.to_thread(visit, node, f"{below.url}/")
        assert heard["done"] is False
        assert f"CORS_ORIGINS={below.origin}" in heard["error"]


async def test_one_setting_is_enough_for_a_proxy_that_says_nothing(node: Node, tmp_path: Path) -> None:
    server = contract_like_server(tmp_path)
    async with Below(server) as below:
        server.settings["CORS_ORIGINS"] = below.origin
        with server:
            heard = await asyncio.to_thread(visit, node, f"{below.url}/")
            assert (heard["done"], heard["error"]) == (True, None)


async def test_socket_io_and_the_documents_work_below_a_path(http: aiohttp.ClientSession, proxied: Server) -> None:
    forwarded = {"X-Forwarded-Host": "media.lan", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": PREFIX}
    async with Below(proxied, forwarded) as below:
        for transport in ("websocket", "polling"):
            async with Peer(below.origin, transport=transport, path=f"{PREFIX}/socket.io") as peer:
                assert (await peer.answer({"type": "contract_echo"}))["status"] == "success"
        async with http.get(f"{below.url}/openapi.json") as response:
            assert (await response.json())["servers"] == [{"url": "https://media.lan/media"}]
    async with http.get(f"{proxied.url}/openapi.json") as response:
        assert (await response.json())["servers"] == [{"url": "."}]


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_the_pages_name_no_path_from_the_root(http: aiohttp.ClientSession, url: str, path: str) -> None:
    """Below a proxy's path that would lead beside it."""
    async with http.get(url + path) as response:
        page = await response.text()
    assert not re.findall(r"""(?:fetch\(|call\(|open\("\w+", |href=|src=)["'`]/""", page)


async def test_a_machine_whose_name_cannot_be_looked_up_refuses_strange_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "x" * 64)
    assert (await told(Origins(), Host="other.example"))[0] == 403
