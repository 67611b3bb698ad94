"""A wire between a client and a server that a test can cut, and that can lose what it carries."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol, Self


class Listening(Protocol):
    port: int


class Proxy:
    """Forwards TCP connections to `server.port`, which may change while the proxy lives (a restarted server)."""

    def __init__(self, server: Listening) -> None:
        self._server = server
        self._wires: set[asyncio.StreamWriter] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._marker: bytes | None = None
        self._cuts = False

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()
        await asyncio.gather(*self._carriers)

    def close(self) -> None:
        """Cut everything and take no more."""
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, as a network does: without a goodbye."""
        for wire in self._wires:
            wire.transport.abort()

    def lose(self, marker: bytes = b"", *, cut: bool = False) -> asyncio.Event:
        """Lose the next bytes from the server that contain `marker`; then `cut`, or go on as if nothing had been.

        Returns: set when it has happened.
        """
        self._marker, self._cuts, self._lost = marker, cut, asyncio.Event()
        return self._lost

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
        except OSError:
            writer.transport.abort()
            return
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        self._wires |= {writer, to_server}
        await asyncio.gather(self._pump(reader, to_server), self._pump(from_server, writer, loses=True))
        self._wires -= {writer, to_server}
        self._carriers.discard(carrier)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                if loses and self._marker is not None and self._marker in data:
                    self._marker = None
                    self._lost.set()
                    if self._cuts:
                        self.cut()
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()
