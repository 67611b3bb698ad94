"""The download sandbox: what the process that fetches strangers' URLs may reach, and what it may start.

    connect, sendto, sendmsg ─▶ audit hook ─▶ is the address that is connected to a public one?  ─▶ no: Refused
    any start of a program   ─▶ audit hook ─▶ is it one that confines itself?                    ─▶ no: Refused

An audit hook (PEP 578) stands in the interpreter itself, below every library, and cannot be taken out again. It sees
the address after all names, redirects, playlists and embeds have been resolved, so neither a name that changes its
address between two looks (DNS rebinding) nor any way of writing a number (2130706433, 0x7f.1, ::ffff:7f00:1) helps.

Rules:
- Public is what is globally routed, is not multicast or reserved, and is no address of this machine.
- An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4) is judged by that.
- Only IPv4 and IPv6: no Unix socket, which would be D-Bus or Docker.
- Behind a proxy only the proxy is connected to; which addresses are reached through it is the proxy's to check.
- An errand that was refused once is refused everything after: its source is not to be trusted with another try.
"""

from __future__ import annotations

import contextvars
import dataclasses
import errno
import ipaddress
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Endpoint = tuple[str, int]

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The part of IPv6 that is routed between networks (RFC 4291, section 2.4)."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""The prefix by which a network that has only IPv6 reaches IPv4 (RFC 6052)."""
NOT_ROUTED = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "2001:db8::/32", "3fff::/20")))
"""Retired relays and documentation, which some versions of `ipaddress` take for global."""


def is_public(host: str) -> bool:
    """Whether a numeric address, as a socket takes it, is one of the public internet's. Names are not."""
    try:
        return _public(ipaddress.ip_address(host))
    except ValueError:
        return False


def _public(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        carried = _carried(address)
        if carried is not None:
            return _public(carried)
        if address not in GLOBAL_UNICAST:
            return False
    routed = not any(address in network for network in NOT_ROUTED)
    return routed and address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


class Refused(PermissionError):
    """The sandbox did not let a connection or a program through."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EACCES, f"the download sandbox refused {what}")


class Stopped(Exception):
    """An errand was stopped from outside."""


class Errand:
    """One download's life in the sandbox: `with errand:` around it, in its thread; `stop()` from any other.

    refused: whether it tried what is forbidden. stopped: whether it is to end.
    """

    def __init__(self) -> None:
        self.refused = False
        self.stopped = False
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._on_stop: list[Callable[[], Any]] = []

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)

    def stop(self) -> None:
        """End it soon: what waits for a socket wakes, and no new one connects."""
        with self._lock:
            self.stopped = True
            open_sockets, callbacks = list(self._sockets), list(self._on_stop)
        for sock in open_sockets:
            try:
                # SSLSocket's own would take the TLS state away from the thread that reads with it
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                continue  # not connected, or closed
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises: Stopped."""
        if self.stopped:
            raise Stopped

    def on_stop(self, callback: Callable[[], Any]) -> None:
        """Call something when the errand is stopped, or at once when it has been stopped already."""
        with self._lock:
            self._on_stop.append(callback)
            stopped = self.stopped
        if stopped:
            callback()

    def watch(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.add(sock)


_current: contextvars.ContextVar[Errand | None] = contextvars.ContextVar("errand", default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """What the sandbox lets through.

    allow_private: every address. proxy: only this host and port. allow: numeric hosts and ports beside the public ones.
    may_start: whether a program with these arguments confines itself.
    """

    allow_private: bool = False
    proxy: Endpoint | None = None
    allow: frozenset[Endpoint] = frozenset()
    may_start: Callable[[Sequence[str]], bool] = lambda args: False


class Sandbox:
    """The rules at work; `install` puts them around this process for the rest of its life."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._looking = threading.local()
        self._events: dict[str, Callable[..., None]] = {
            "socket.__new__": self._on_socket,
            "socket.connect": self._on_address,
            "socket.sendto": self._on_address,
            "socket.sendmsg": self._on_address,
            "subprocess.Popen": self._on_program,
            "os.posix_spawn": self._on_program,
            "os.exec": self._on_program,
            "os.system": self._on_other_start,
            "os.fork": self._on_other_start,
            "os.forkpty": self._on_other_start,
        }

    def install(self) -> None:
        """Put the rules around this process. An audit hook cannot be taken out again."""
        sys.addaudithook(self._audit)

    def check_url(self, url: str) -> None:
        """Refuse what can be told from a URL alone; behind a proxy no more than that is seen here. Raises: Refused."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise self._refused(f"{parts.scheme[:20]!r} URLs")
        host = (parts.hostname or "").rstrip(".")
        numbers = () if self._rules.allow_private else _numeric(host)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        local = not self._rules.allow_private and (host == "localhost" or host.endswith(".localhost"))
        if local or any(not is_public(number) and (number, port) not in self._rules.allow for number in numbers):
            raise self._refused("a private or local address")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        check = self._events.get(event)
        if check is not None:
            check(*args)

    def _on_socket(self, sock: Any, *_: Any) -> None:
        errand = _current.get()
        if errand is not None and isinstance(sock, socket.socket):
            errand.watch(sock)

    def _on_address(self, sock: Any, address: Any) -> None:
        if address is None or getattr(self._looking, "active", False):  # sendmsg on a connected socket; our own look
            return
        errand = _current.get()
        if errand is not None and (errand.stopped or errand.refused):
            raise Refused("a further connection")
        if not self._may_reach(sock.family, address):
            raise self._refused("a private or local address")

    def _may_reach(self, family: int, address: Any) -> bool:
        if family not in (socket.AF_INET, socket.AF_INET6):
            return False
        endpoint = (address[0], address[1])
        if self._rules.proxy is not None:
            return endpoint in _endpoints(self._rules.proxy)
        if self._rules.allow_private or endpoint in self._rules.allow:
            return True
        return is_public(endpoint[0]) and not self._is_own(family, endpoint[0])

    def _is_own(self, family: int, host: str) -> bool:
        """Whether an address is this machine's: the way to it then starts at itself. Nothing is sent."""
        self._looking.active = True
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((host, 9))
                return bool(sock.getsockname()[0] == host)
        except OSError:  # no way there at all
            return False
        finally:
            self._looking.active = False

    def _on_program(self, program: Any, args: Any, *_: Any) -> None:
        words = [str(word) for word in ([args] if isinstance(args, (str, bytes)) else args)]
        if not words or str(program) != words[0] or not self._rules.may_start(words):
            raise Refused("to start a program")

    def _on_other_start(self, *_: Any) -> None:
        raise Refused("to start a program")

    def _refused(self, what: str) -> Refused:
        errand = _current.get()
        if errand is not None:
            errand.refused = True
        return Refused(what)


def _numeric(host: str) -> Sequence[str]:
    """The address that a host written as a number means, in the C library's many ways; none for a name."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)]
    except (OSError, UnicodeError):
        return ()


def _endpoints(named: Endpoint) -> set[Endpoint]:
    return {(str(found[4][0]), int(found[4][1])) for found in socket.getaddrinfo(*named, type=socket.SOCK_STREAM)}
