"""Messages on a byte stream between two processes: four bytes of length, little-endian, then JSON."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import orjson

_LENGTH = struct.Struct("<I")


def pack(message: Any) -> bytes:
    body = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Puts messages together again from whatever pieces the stream gives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Every message that `data` completes."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            yield orjson.loads(memoryview(self._buffer)[start + _LENGTH.size : end])
            start = end
        del self._buffer[:start]
