"""Who asks: a list of authenticators, asked in order; the address that somebody asks from, also behind proxies."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contract.errors import Unauthorized
from contract.identity import Identity
from gateway.answers import answer_errors, reply
from gateway.auth import Authenticators, Credentials, Tokens
from gateway.origins import Origins
from gateway.rates import Rates
from gateway.socketio import SocketDoor
from tests.peers import Peer
from tests.roads import Road

TOKENS = Tokens(b"k" * 32)
NOBODY = Credentials(None, "203.0.113.9")


class Key:
    """Knows one key."""

    def __init__(self, key: str, who: Identity) -> None:
        self.key = key
        self.who = who
        self.shown: list[Credentials] = []

    def identity(self, shown: Credentials) -> Identity | None:
        self.shown.append(shown)
        return self.who if shown.token == self.key else None


def test_the_first_that_knows_the_credentials_says_who_it_is() -> None:
    ann, bob = Identity.known("ann", "acme"), Identity.known("bob", "acme")
    callers = Authenticators(TOKENS, Key("a", ann), Key("b", bob), Key("a", bob))
    assert callers.identity(Credentials("a", None)) == ann
    assert callers.identity(Credentials("b", None)) == bob
    assert callers.identity(Credentials(TOKENS.issue(ann), None)).client == "ann"


@pytest.mark.parametrize("token", ["", "c", "é", 5, {}, b"\xff", "\ud800"])
def test_what_nobody_knows_is_refused(token: Any) -> None:
    with pytest.raises(Unauthorized):
        Authenticators(TOKENS, Key("a", Identity.known("ann", "acme"))).identity(Credentials(token, None))


def test_who_shows_nothing_is_a_new_client_each_time_and_known_by_its_token() -> None:
    callers = Authenticators(TOKENS)
    who, other = callers.identity(NOBODY), callers.identity(NOBODY)
    assert who.client != other.client
    assert who.limited_as == other.limited_as == NOBODY.peer
    known = callers.identity(Credentials(callers.token(who), NOBODY.peer))
    assert known == Identity.known(who.client)._replace(address=NOBODY.peer)


def test_the_addresses_of_one_network_are_counted_together() -> None:
    peers = ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "::ffff:203.0.113.9", "203.0.113.9")
    counted = [Authenticators(TOKENS).identity(Credentials(None, peer)).limited_as for peer in peers]
    assert counted[0] == counted[1] != counted[2]
    assert counted[3] == counted[4] == "203.0.113.9"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "peer"),
    [
        ("10.0.0.0/8", ["203.0.113.9"], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["192.0.2.1, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1 10.0.0.0/8", ["192.0.2.1,203.0.113.9", "10.0.0.5"], "203.0.113.9"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
    ],
    ids=["no proxy of ours", "silent", "one", "forged before it", "two", "no address", "IPv6"],
)
async def test_an_authenticator_is_told_the_address_that_trusted_proxies_heard(
    proxies: str, forwarded: list[str], peer: str
) -> None:
    seen = Key("a", Identity.known("ann", "acme"))
    callers = Authenticators(TOKENS, seen)

    async def ask(request: web.Request) -> web.Response:
        return reply({"client": callers.who(request).client})

    origins = Origins(proxies=[ipaddress.ip_network(proxy) for proxy in proxies.split()])
    app = web.Application(middlewares=[answer_errors, origins.check])
    app.router.add_get("/", ask)
    async with TestClient(TestServer(app)) as client:
        headers = [("Authorization", "Bearer a"), *(("X-Forwarded-For", value) for value in forwarded)]
        async with client.get("/", headers=headers) as response:
            assert (await response.json()) == {"client": "ann"}
    assert seen.shown == [Credentials("a", peer)]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_door_of_sockets_asks_the_same_list(tmp_path: Path, transport: str) -> None:
    seen = Key("a", Identity.known("ann", "acme"))
    road = await Road(tmp_path, []).start()
    app = web.Application(middlewares=[answer_errors, Origins().check])
    door = SocketDoor(road.queue, Authenticators(TOKENS, seen), road.folders, Rates(0))
    door.attach(app)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        async with Peer(url, "a", transport) as peer, Peer(url, None, transport) as fresh:
            assert (peer.client, peer.token) == ("ann", "a")
            assert seen.shown == [Credentials("a", "127.0.0.1"), Credentials(None, "127.0.0.1")]
            assert TOKENS.identity(Credentials(fresh.token, None)) == Identity.known(fresh.client)
        await door.close()
    await road.close()
