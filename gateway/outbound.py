"""What leaves on a Socket.IO connection: packets of bytes and files, counted, and read as the client takes them.

A packet waits in its connection's `OutboundQueue` until the client has taken it. What waits on one connection is
limited, and the more waits on all of them together, the less one may have; what is beyond stays in the ledger and on
the disk, and is read when there is room.
"""

from __future__ import annotations

import asyncio
import io
import struct
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engineio import packet as engine_packets

HIGH_WATER_BYTES = 256 * 1024
"""Unsent beyond this, a connection gets nothing new until half of it is gone."""
LEAST_WATER_BYTES = 32 * 1024
"""The same limit while all connections together have used up theirs."""
MEMORY_BYTES = 64 * 1024 * 1024
"""Bytes that all connections together may have unsent in memory."""
SHARE = 8
"""No connection may have more than this part of the memory that is left."""
PIECE_BYTES = 128 * 1024
"""A longer message goes out in frames of this size, each when the client has taken the one before."""
UNREAD_SECONDS = 60.0
"""A client that takes nothing of what there is for it is cut off after this; it may resume."""
HASTE = 12
"""A client that takes nothing is closed so many times sooner when the memory of all is used up."""
BATCH_BYTES = 64 * 1024
"""Bytes written to one connection before the others have their turn."""

Part = bytes | Path
"""A part of a message: bytes, or the file that holds them."""


class Budget:
    """The memory that unsent packets of all connections share. used: bytes."""

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.used = 0
        self._limit = limit

    @property
    def is_used_up(self) -> bool:
        return self.used >= self._limit

    @property
    def water(self) -> int:
        """Bytes that one connection may have unsent."""
        return max(LEAST_WATER_BYTES, min(HIGH_WATER_BYTES, (self._limit - self.used) // SHARE))


class Outgoing(engine_packets.Packet):  # type: ignore[misc]
    """A message whose content is joined when it is written; files are read only then.

    size: bytes, without those of files; a file counts as one piece, since no more of it is ever in memory.
    """

    def __init__(self, parts: Sequence[Part], *, binary: bool = False) -> None:
        super().__init__(engine_packets.MESSAGE)
        self.binary = binary
        self.parts = parts
        self.has_files = any(isinstance(part, Path) for part in parts)
        self.size = sum(len(part) if isinstance(part, bytes) else PIECE_BYTES for part in parts)

    def encode(self, b64: bool = False) -> Any:
        """Itself for a websocket, which takes it in pieces; text for long-polling."""
        if not b64:
            return self
        content = b"".join(self.pieces())
        return f"b{b64encode(content).decode()}" if self.binary else f"4{content.decode()}"

    def at_once(self) -> bytes | None:
        """The content; None when it is long, or in files."""
        return b"".join(part for part in self.parts if isinstance(part, bytes)) if self.size < PIECE_BYTES else None

    def pieces(self, size: int = PIECE_BYTES) -> Iterator[bytes]:
        """The content, in pieces of `size` bytes but for the last. Reads the disk."""
        piece = bytearray()
        for part in self.parts:
            with part.open("rb") if isinstance(part, Path) else io.BytesIO(part) as source:
                while block := source.read(size - len(piece)):
                    piece += block
                    if len(piece) == size:
                        yield bytes(piece)
                        piece.clear()
        yield bytes(piece)


class OutboundQueue(asyncio.Queue[Any]):
    """A connection's packets on their way out. What was taken to be written counts until more is asked for.

    unsent: bytes. drained: cleared while the connection may get nothing new.
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.unsent = 0
        self.drained = asyncio.Event()
        self.drained.set()
        self._budget = budget
        self._batch = 0
        self._moved = time.monotonic()
        self._closed = False

    @property
    def room(self) -> int:
        """Bytes that the connection may still get."""
        return self._budget.water - self.unsent

    def moved(self) -> None:
        """The client has taken something."""
        self._moved = time.monotonic()

    def has_stalled(self, seconds: float) -> bool:
        """Whether the client has taken nothing for so long of what there is for it, or a part of that in need."""
        patience = seconds / HASTE if self._budget.is_used_up else seconds
        return self.unsent > 0 and time.monotonic() - self._moved >= patience

    async def get(self) -> Any:
        self._count(-self._batch)
        self._batch = 0
        self.moved()
        if self.unsent <= self._budget.water // 2:
            self.drained.set()
        return await super().get()

    def get_nowait(self) -> Any:
        """Raises: asyncio.QueueEmpty also when enough was taken for one turn."""
        if self._batch >= BATCH_BYTES:
            raise asyncio.QueueEmpty
        return super().get_nowait()

    def close(self) -> None:
        """The connection is gone: nothing counts any more, and who waits for room must see the end."""
        self._count(-self.unsent)
        self._closed = True
        self.drained.set()

    def _put(self, item: Any) -> None:
        super()._put(item)
        if not self.unsent:
            self.moved()
        self._count(_size(item))
        if self.unsent > self._budget.water and not self._closed:
            self.drained.clear()

    def _get(self) -> Any:
        item = super()._get()
        self._batch += _size(item)
        return item

    def _count(self, size: int) -> None:
        if not self._closed:
            self.unsent += size
            self._budget.used += size


def _size(packet: Any) -> int:
    if isinstance(packet, Outgoing):
        return packet.size
    data = getattr(packet, "data", None)
    return len(data) if isinstance(data, (str, bytes)) else 0


def frame(content: bytes, opcode: int, *, last: bool) -> bytes:
    """A websocket frame as a server sends it (RFC 6455, 5.2)."""
    first, length = opcode | 0x80 * last, len(content)
    if length < 126:
        head = struct.pack("!BB", first, length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 126, length)
    else:
        head = struct.pack("!BBQ", first, 127, length)
    return head + content
