"""JSON on a byte stream between two processes: four bytes of length, little-endian, then as many of JSON."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import orjson

_LENGTH = struct.Struct("<I")


class Garbled(ValueError):
    """What came is not what this stream carries. The text says why, and repeats nothing of what came."""


def pack(value: Any) -> bytes:
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Puts frames together again from whatever pieces the stream gives. most: bytes that a frame may have."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The value of every frame that `data` completes. Raises: Garbled, after which nothing more can be read."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if self._most is not None and length > self._most:
                raise Garbled(f"a frame of {length} bytes is longer than any may be")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                value = orjson.loads(memoryview(self._buffer)[start + _LENGTH.size : end])
            except orjson.JSONDecodeError as exc:
                raise Garbled("a frame is not JSON") from exc
            yield value
            start = end
        del self._buffer[:start]
