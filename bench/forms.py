"""One minute of speech in the forms that a client may ask for: bytes on the wire, and what they cost both sides.

    .venv/bin/python -m bench.forms [--rounds 5]

The first table writes and reads the same 16-bit samples as a JSON list of floats, as base64 in JSON and as they are,
with no server. The second asks a server on tmpfs for the minute, as one answer or as a stream of `audio` events of 80
ms: bytes that reached the client's socket, and the CPU time of all the server's processes (encoding included) and of
the client until it holds the bytes or numbers. An answer above 3 MiB comes by HTTP, where bytes are base64.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import struct
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import socketio

from bench.streams import Served, cpu_seconds, optivus
from bench.workers.minute import SECONDS, speech
from gateway.packets import Json

RATE = 44_100
ASKED = [
    ("list", RATE),
    ("wav", RATE),
    ("mp3", RATE),
    ("opus", RATE),
    ("stream", RATE),
    ("list", 16_000),
    ("wav", 16_000),
    ("opus", 16_000),
    ("stream", 16_000),
]
_TCP_BYTES_RECEIVED = 128
"""Where `tcp_info` has them (Linux)."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    bare(args.rounds)
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with optivus(shm) as server:
        asyncio.run(through(server, args.rounds))


def bare(rounds: int) -> None:
    """The first table."""
    samples = speech(RATE)
    numbers, sound = samples / np.float32(1 << 15), samples.tobytes()
    ways: dict[str, tuple[Callable[[], bytes], Callable[[bytes], Any]]] = {
        "JSON list of floats": (lambda: orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY), orjson.loads),
        "base64 in JSON": (
            lambda: orjson.dumps(b64encode(sound).decode()),
            lambda text: b64decode(orjson.loads(text)),
        ),
        "binary": (samples.tobytes, bytearray),
    }
    print(
        f"| {SECONDS} s at {RATE} Hz | bytes | writing, CPU ms (spread) | reading, CPU ms (spread) |\n|---|---|---|---|"
    )
    for name, (write, read) in ways.items():
        written = write()
        taken = [(timed(write), timed(lambda: read(written))) for _ in range(rounds)]  # noqa: B023 - called at once
        print(f"| {name} | {len(written):,} | {' | '.join(shown(list(one)) for one in zip(*taken, strict=True))} |")


def timed(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def shown(seconds: list[float]) -> str:
    """The median in milliseconds, with the spread of the rounds."""
    return f"{statistics.median(seconds) * 1e3:.1f} ({min(seconds) * 1e3:.1f}-{max(seconds) * 1e3:.1f})"


async def through(server: Served, rounds: int) -> None:
    """The second table."""
    print("\n| asked for | comes | bytes | server CPU ms (spread) | client CPU ms (spread) | s (spread) |")
    print("|---|---|---|---|---|---|")
    for form, rate in ASKED:
        message = {"type": "minute", "audio_format": form, "rate": rate}
        await Taker(server).take(message)  # its process has started
        found = [await Taker(server).take(message) for _ in range(rounds)]
        comes, size = found[-1][:2]
        columns = zip(*(one[2:4] for one in found), strict=True)
        walls = [one[4] for one in found]
        print(
            f"| {form}, {rate} Hz | {comes} | {size:,} | {' | '.join(shown(list(column)) for column in columns)} "
            f"| {statistics.median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f}) |",
            flush=True,
        )


class Taker:
    """A client that takes one answer, whichever way it comes."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._client = socketio.AsyncClient(json=Json, reconnection=False, websocket_extra_options={"max_msg_size": 0})
        self._client.on("session", self._on_session)
        self._client.on("audio", self._on_audio)
        self._client.on("message", self._on_message)
        self._sound = bytearray()
        self._session: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def take(self, message: dict[str, Any]) -> tuple[str, int, float, float, float]:
        """(how it came, bytes, the server's CPU seconds, the client's, seconds until it was there)."""
        async with contextlib.AsyncExitStack() as stack:
            await self._client.connect(self._server.url, transports=["websocket"])
            stack.push_async_callback(self._client.disconnect)
            http = await stack.enter_async_context(aiohttp.ClientSession(self._server.url))
            token = (await self._session)["token"]
            wire = self._client.eio.ws.get_extra_info("socket")
            before, server, client, began = (
                received(wire),
                cpu_seconds(self._server.pid),
                time.process_time(),
                time.monotonic(),
            )
            await self._client.emit("message", message)
            answer = await self._answer
            assert answer["status"] == "success", answer
            comes, more = "in the message", 0
            if self._sound:
                comes = "audio events"
            elif answer.get("truncated"):
                comes = "by HTTP"
                async with http.get(answer["result_url"], headers={"Authorization": f"Bearer {token}"}) as response:
                    body = await response.read()
                    more = len(body)
                    answer = orjson.loads(body)["answer"]
                if isinstance(answer["audio_data"], str):
                    b64decode(answer["audio_data"])
            size = received(wire) - before + more
            took = time.process_time() - client, time.monotonic() - began
            return comes, size, cpu_seconds(self._server.pid) - server, *took

    async def _on_session(self, body: dict[str, Any]) -> None:
        self._session.set_result(body)

    async def _on_audio(self, body: dict[str, Any]) -> None:
        self._sound += body["audio"]

    async def _on_message(self, body: dict[str, Any]) -> None:
        self._answer.set_result(body)


def received(wire: Any) -> int:
    """Bytes that a connection's socket has got so far."""
    info = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("Q", info, _TCP_BYTES_RECEIVED)[0])


if __name__ == "__main__":
    main()
