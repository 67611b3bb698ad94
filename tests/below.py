"""A reverse proxy that serves a server below a path, as nginx does by default: the server sees its own address as Host.

location /media/ { proxy_pass http://127.0.0.1:5000/; }
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Self

from tests.proxy import Listening

PREFIX = "/media"


class Below:
    """headers: what the proxy says beside, such as ``{"X-Forwarded-Prefix": "/media"}``. One request a connection."""

    def __init__(self, server: Listening, headers: Mapping[str, str] | None = None) -> None:
        self._server = server
        self.headers = dict(headers or {})
        self._carriers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = self.origin + PREFIX
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listener.close()
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = self._rewritten((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            if head is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                return
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
            with contextlib.closing(to_server):
                to_server.write(head.encode("latin-1"))
                upward = asyncio.create_task(_pump(reader, to_server))
                await _pump(from_server, writer)
                upward.cancel()

    def _rewritten(self, head: str) -> str | None:
        """The head as the server sees it; None of what lies beside the path."""
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, path, version = first.split(" ")
        if not path.startswith(f"{PREFIX}/"):
            return None
        upgrade = any(line.lower().startswith("upgrade:") for line in lines)
        dropped = ("host", *(() if upgrade else ("connection",)))
        kept = [line for line in lines if line.partition(":")[0].lower() not in dropped]
        kept.append(f"Host: 127.0.0.1:{self._server.port}")
        kept += [f"{name}: {value}" for name, value in self.headers.items()]
        if not upgrade:
            kept.append("Connection: close")
        return "\r\n".join([f"{method} {path.removeprefix(PREFIX)} {version}", *kept, "", ""])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
