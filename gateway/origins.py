"""By which name the server may be called, and whose pages may use it: the same for every door.

    Host ─▶ a known name? ─▶ (from a trusted proxy: X-Forwarded-Host ─▶ a known name?) ─▶ Origin: own or listed? ─▶ door

A page elsewhere can have its own name resolved to this machine ("DNS rebinding"): its requests then count as same
origin for the browser, and carry no `Origin` at all when they are GET. Only `Host` still tells, so it is looked at in
every request. What an attacker cannot have resolved for a stranger's browser is known without a setting:

- an IP address: nothing is resolved;
- a name without a dot, as of a machine in the LAN or a service of a container network: nobody can register one;
- names under LOCAL_DOMAINS: set aside (RFC 6761, 6762, 8375; ICANN for `internal`) or never delegated (`lan`), so that
  only the network that the browser stands in answers for them;
- this machine's own full name, and the hosts of CORS_ORIGINS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from contract.errors import HostForbidden, OriginForbidden, ServiceError

LOCAL_DOMAINS = ("localhost", "local", "internal", "home.arpa", "lan")

MAX_SHOWN = 200
_PLAIN = re.compile(r"[\w.:/\[\]-]{1,200}", re.ASCII)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """Where clients see the server. origin: `https://media.example`, None where no proxy said; prefix: `/media`."""

    host: str
    origin: str | None = None
    prefix: str = ""


ADDRESS = web.RequestKey("address", Address)
"""By what address a request was sent."""
PEER = web.RequestKey("peer", str)
"""The network address of who sent a request; behind trusted proxies, of who the outermost of them heard it from."""
_ALLOWED = web.RequestKey("allowed_origin", str)


class Origins:
    """What the settings CORS_ORIGINS, ALLOWED_HOSTS and TRUSTED_PROXIES say.

    listed: origins, hosts: names, in both `*` for all. proxies: networks whose `X-Forwarded-…` are believed.
    own_names: this machine's, asked for once, when an unknown name comes: the answer may take its time.
    """

    def __init__(
        self,
        listed: Iterable[str] = (),
        hosts: Iterable[str] = (),
        proxies: Iterable[Network] = (),
        own_names: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        self._listed = frozenset(listed)
        self._hosts = {*map(name_of, hosts), *(name_of(_host_of(origin)) for origin in self._listed)}
        self._any_host = "*" in self._listed or "*" in self._hosts
        self._proxies = tuple(proxies)
        self._own_names = own_names or machine_names
        self._own: asyncio.Future[frozenset[str]] | None = None

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what comes under a strange name, or from a strange page. Raises: HostForbidden, OriginForbidden."""
        for host in request.headers.getall("Host", ()):
            await self._check_host(host)
        address = request[ADDRESS] = self._address(request)
        await self._check_host(address.host)
        request[PEER] = self._peer(request)
        origin = request.headers.get("Origin")
        if origin is None or _host_of(origin) == address.host:
            return await handler(request)
        if origin not in self._listed and "*" not in self._listed:
            raise _refused(origin)
        request[_ALLOWED] = origin
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    @staticmethod
    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        """Let the page of a listed origin read the answer; called before the head of any answer is sent."""
        if _ALLOWED in request:
            response.headers.update({"Access-Control-Allow-Origin": request[_ALLOWED], "Vary": "Origin"})

    def _address(self, request: web.Request) -> Address:
        host = request.headers.get("Host", "")
        if not self.is_proxy(request.remote):
            return Address(host)
        given, prefix = _last(request, "X-Forwarded-Host"), _last(request, "X-Forwarded-Prefix").strip("/")
        scheme = "https" if _last(request, "X-Forwarded-Proto").lower() == "https" else "http"
        return Address(given or host, f"{scheme}://{given}" if given else None, f"/{prefix}" if prefix else "")

    def _peer(self, request: web.Request) -> str:
        """Each proxy adds to `X-Forwarded-For` who it was asked by; only what trusted ones added is believed."""
        peer = request.remote or ""
        for heard_from in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
            if not self.is_proxy(peer) or _ip(heard_from.strip()) is None:
                break
            peer = heard_from.strip()
        return peer

    def is_proxy(self, peer: str | None) -> bool:
        """Whether what this address says of others is believed."""
        address = _ip(peer or "")
        return address is not None and any(address in network for network in self._proxies)

    async def _check_host(self, host: str) -> None:
        name = name_of(host)
        if self._any_host or name in self._hosts or is_local(name) or name in await self._names():
            return
        raise HostForbidden(
            f"This server does not know itself as {host[:MAX_SHOWN]!r}. If that is a name of it, set "
            f"{_setting('ALLOWED_HOSTS', name)} and start it again."
        )

    async def _names(self) -> frozenset[str]:
        if self._own is None:
            self._own = asyncio.ensure_future(
                asyncio.to_thread(lambda: frozenset(name_of(name) for name in self._own_names()))
            )
        return await asyncio.shield(self._own)


def counted_as(peer: str | None) -> str:
    """A network address as what it is counted by: of IPv6 the network, which is one customer's."""
    address = _ip(peer) if peer and ":" in peer else None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or peer or "")


def peer_of(request: web.Request) -> str:
    """Who sent a request, as they are counted."""
    return counted_as(request.get(PEER, request.remote))


def machine_names() -> tuple[str, ...]:
    """This machine's name and full name; of one that cannot be looked up, as a container's of 64 characters, none."""
    try:
        return socket.gethostname(), socket.getfqdn()
    except (OSError, UnicodeError):
        return ()


def name_of(host: str) -> str:
    """The name or address in a `Host` header, in lower case, without port, brackets and final dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and (not port or port.isdecimal()) else host).removesuffix(".")


def is_local(name: str) -> bool:
    """Whether a name of `name_of` can lead a browser to this server only when somebody in its own network says so."""
    if "." not in name and ":" not in name:
        return True
    if name.endswith(tuple(f".{domain}" for domain in LOCAL_DOMAINS)):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address that came over IPv6 as what it is. None for what is no address, such as a Unix socket's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _refused(origin: str) -> ServiceError:
    refusal = f"Pages from {origin[:MAX_SHOWN]!r} may not use this server."
    if not _host_of(origin):  # "null", of which the setting would let in every sandboxed page
        return OriginForbidden(refusal)
    return OriginForbidden(
        f"{refusal} If they may, set {_setting('CORS_ORIGINS', origin)} on the server and start it again."
    )


def _setting(variable: str, value: str) -> str:
    """A setting as it can be copied; of a value that is no plain name only the variable."""
    return f"{variable}={value}" if _PLAIN.fullmatch(value) else variable


def _host_of(origin: str) -> str:
    return origin.partition("://")[2]


def _last(request: web.Request, header: str) -> str:
    """What the nearest proxy says: others may stand before it, each with a comma."""
    return ",".join(request.headers.getall(header, ())).rpartition(",")[2].strip()
