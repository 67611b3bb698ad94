"""What waits to be sent: how much, for how long, and how it is written."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.outbound import (
    BATCH_BYTES,
    HASTE,
    HIGH_WATER_BYTES,
    LEAST_WATER_BYTES,
    PIECE_BYTES,
    Budget,
    OutboundQueue,
    Outgoing,
)
from gateway.wire import SocketServer
from tests.test_contract import WEBSOCKET, served

KIB = 1 << 10


def packet(size: int) -> Outgoing:
    return Outgoing([b"x" * size])


async def test_what_is_being_written_counts_until_more_is_asked_for() -> None:
    queue = OutboundQueue(Budget())
    for _ in range(5):
        queue.put_nowait(packet(HIGH_WATER_BYTES // 4))
    assert not queue.drained.is_set()
    for left in (5, 4, 3):
        await queue.get()
        assert queue.unsent == left * (HIGH_WATER_BYTES // 4)
        assert not queue.drained.is_set()
    await queue.get()
    assert queue.drained.is_set()


async def test_one_turn_takes_some_of_many() -> None:
    queue = OutboundQueue(Budget())
    for _ in range(1000):
        queue.put_nowait(packet(KIB))
    await queue.get()
    taken = 1
    with pytest.raises(asyncio.QueueEmpty):
        while queue.get_nowait():
            taken += 1
    assert taken == BATCH_BYTES // KIB
    await queue.get()
    assert queue.get_nowait()


async def test_the_more_all_have_the_less_one_may_have() -> None:
    budget = Budget(limit=HIGH_WATER_BYTES * 16)
    queues = [OutboundQueue(budget) for _ in range(100)]
    for queue in queues:
        while queue.drained.is_set():
            queue.put_nowait(packet(KIB))
    unsent = [queue.unsent for queue in queues]
    assert unsent == sorted(unsent, reverse=True)
    assert unsent[0] == HIGH_WATER_BYTES + KIB
    assert unsent[-1] == LEAST_WATER_BYTES + KIB
    assert budget.used == sum(unsent) <= HIGH_WATER_BYTES * 16 + 100 * (LEAST_WATER_BYTES + KIB)
    for queue in queues:
        queue.close()
        assert queue.drained.is_set()
        queue.put_nowait(packet(HIGH_WATER_BYTES * 2))
    assert budget.used == 0


async def test_a_client_that_takes_nothing_is_borne_with_for_less_time_when_memory_is_used_up() -> None:
    budget = Budget(limit=HIGH_WATER_BYTES)
    stopped, idle, large = (OutboundQueue(budget) for _ in range(3))
    stopped.put_nowait(packet(1))
    assert stopped.has_stalled(0.0)
    assert not stopped.has_stalled(1e9)
    assert not idle.has_stalled(0.0)
    large.put_nowait(packet(HIGH_WATER_BYTES))
    assert [queue.has_stalled(1e-9 * HASTE) for queue in (stopped, idle)] == [True, False]
    assert budget.is_used_up
    large.close()
    assert not budget.is_used_up


@given(st.lists(st.tuples(st.binary(max_size=700), st.booleans())), st.integers(1, 300))
def test_pieces_are_the_parts_joined(parts: list[tuple[bytes, bool]], size: int) -> None:
    made: list[bytes | Path] = []
    descriptors = []
    for content, in_file in parts:
        if in_file:
            descriptors.append(os.memfd_create("part"))
            os.write(descriptors[-1], content)
            made.append(Path(f"/proc/self/fd/{descriptors[-1]}"))
        else:
            made.append(content)
    pieces = list(Outgoing(made).pieces(size))
    for descriptor in descriptors:
        os.close(descriptor)
    assert b"".join(pieces) == b"".join(content for content, _ in parts)
    assert all(len(piece) == size for piece in pieces[:-1])


# On the wire.


async def nothing(*_: Any) -> None:
    return None


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 65_534, 65_535, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES])
async def test_a_message_of_any_size_arrives_whole(size: int, tmp_path: Path) -> None:
    text, binary = b"t" * size, os.urandom(size)
    for name, content in (("text", text), ("binary", binary)):
        (tmp_path / name).write_bytes(content)
    sids: asyncio.Queue[str] = asyncio.Queue()
    server = SocketServer(nothing, sids.put)
    server.on("connect", lambda sid, environ: None)
    texts = [Outgoing([b'2["', part, b'"]']) for part in (text, tmp_path / "text")]
    attachments = [Outgoing([part], binary=True) for part in (binary, tmp_path / "binary")]
    async with (
        served(server) as url,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}", max_msg_size=0) as socket,
    ):
        await socket.send_str("40")
        await server.deliver(await sids.get(), texts + attachments)
        heard = [(await socket.receive(timeout=30)).data for _ in range(6)][2:]
    assert heard == [f'42["{text.decode()}"]'] * 2 + [binary] * 2


async def test_a_reader_that_answers_pings_and_takes_nothing_is_closed() -> None:
    sids: asyncio.Queue[str] = asyncio.Queue()
    left: asyncio.Queue[str] = asyncio.Queue()
    server = SocketServer(nothing, sids.put, close_seconds=0.05, stall_seconds=1.0)
    server.on("connect", lambda sid, environ: None)
    server.on("disconnect", lambda sid, reason: left.put_nowait(sid))
    async with served(server) as url, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}", max_msg_size=0) as reading:
            await reading.send_str("40")
            reader = await sids.get()
            stopped = await http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}", max_msg_size=0)
            await stopped.send_str("40")
            sid = await sids.get()
            stopped._conn.protocol.pause_reading()  # type: ignore[union-attr]
            while left.empty():
                await server.deliver(reader, [packet(PIECE_BYTES)])
                await reading.receive(timeout=30)
                await server.deliver(sid, [packet(PIECE_BYTES)])
                await stopped.send_str("3")
            assert await left.get() == sid
            assert server.outbound(sid) is None
            assert server.outbound(reader) is not None
        await stopped.close()
