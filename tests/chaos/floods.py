"""What others make the server hold, and who waits for it: P5 and P15."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Callable, Coroutine

import aiohttp

from bench import attack
from tests.chaos.report import Ground
from tests.peers import Raw
from tests.processes import memory_mib
from tests.servers import ROOT, Server

MIB = 1 << 20
MOST_MIB = 300.0
VICTIM_SECONDS = 5.0
"""In which others are answered, on a machine that the attacker shares."""
SILENT = 1100
CHUNK = bytes(64 * 1024)
TURNS = 200
"""In which a server that reads at all has taken a chunk."""

Attack = Callable[[Ground, Server], Coroutine[None, None, None]]


async def flood(ground: Ground, server: Server) -> None:
    """Messages beyond what one client may have open."""
    await attack.flood(server.url, server.folder, ground.pick(500, 20_000))


async def readers(ground: Ground, server: Server) -> None:
    """Clients that ask for large answers and read nothing more."""
    await attack.readers(server.url, server.folder)


async def unfinished_messages(ground: Ground, server: Server) -> None:
    """Almost the whole of a message of 16 MB on each of many connections."""
    begun, megabytes = ground.pick(15, 100), 15.9
    head = b"\x81\xff" + int(megabytes * MIB + 1000).to_bytes(8, "big") + bytes(4)
    async with contextlib.AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(Raw(server.url, read=False)) for _ in range(begun)]
        await asyncio.gather(*(_send(raw.socket._writer.transport, head, megabytes) for raw in raws))


async def unfinished_bodies(ground: Ground, server: Server) -> None:
    """Almost the whole of the body of a job, on each of many connections."""
    begun, megabytes = ground.pick(50, 200), 15.9
    head = (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {int(megabytes * MIB + 1000)}\r\n\r\n".encode()
    )

    async def one() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.closing(writer):
            await _send(writer.transport, head, megabytes)

    await asyncio.gather(*(one() for _ in range(begun)))


async def _send(wire: asyncio.WriteTransport, head: bytes, megabytes: float) -> None:
    """Until it is all sent, or the server has closed or takes no more."""
    wire.write(head)
    for _ in range(int(megabytes * MIB) // len(CHUNK)):
        if wire.is_closing():
            return
        wire.write(CHUNK)
        for _ in range(TURNS):
            if wire.get_write_buffer_size() < len(CHUNK):
                break
            await asyncio.sleep(0.005)  # a transport tells nobody but its protocol, which here is a library's
        else:
            return


async def silent_connections(ground: Ground, server: Server) -> None:
    """Connections that say nothing."""
    opened = []
    with contextlib.suppress(OSError):
        for _ in range(SILENT):
            opened.append(await asyncio.open_connection("127.0.0.1", server.port))
    for _, writer in opened:
        writer.close()


async def refused_contents(ground: Ground, server: Server) -> None:
    """Messages with a content that are refused; nothing of them may stay."""
    async with Raw(server.url) as raw:
        for number in range(ground.pick(20, 300)):
            packet = f'451-{number}["message",{{"type":"whisp","file":{{"_placeholder":true,"num":0}},"vad":7}}]'
            await raw.say(packet, bytes(4_000_000))
            await raw.acknowledged(number)


async def large_upload(ground: Ground, server: Server) -> None:
    """One file, which goes to the disk as it comes."""

    async def content() -> AsyncIterator[bytes]:
        for _ in range(ground.pick(100, 2000)):
            yield bytes(MIB)

    async with aiohttp.ClientSession(server.url) as http:
        form = aiohttp.FormData()
        form.add_field("file", content(), filename="film.mp4")
        async with http.post("/files", data=form) as response:
            file = (await response.json())["file_id"]
        async with http.delete(f"/files/{file}") as response:
            assert response.status == 200


ATTACKS: dict[str, tuple[str, Attack]] = {
    "messages beyond a client's limit": ("P5", flood),
    "readers that stop": ("P5", readers),
    "one large upload": ("P5", large_upload),
    "messages of 15.9 MB, unfinished": ("P15", unfinished_messages),
    "bodies of 15.9 MB, unfinished": ("P15", unfinished_bodies),
    "silent connections": ("P15", silent_connections),
    "refused messages with 4 MB": ("P15", refused_contents),
}


QUICK = ("messages beyond a client's limit", "messages of 15.9 MB, unfinished", "refused messages with 4 MB")


async def floods(ground: Ground) -> None:
    """Each attack on a server that also serves somebody else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * SILENT)), hard))
    attacks = {what: each for what, each in ATTACKS.items() if ground.long or what in QUICK}
    for number, (what, (promise, hit)) in enumerate(attacks.items()):
        folder = ground.folder / str(number)
        folder.mkdir()
        with Server(folder, WORKERS_PATH=str(ROOT / "bench" / "workers"), NOOP_PRELOAD="1") as server:
            await _suffered(ground, server, promise, what, hit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _suffered(ground: Ground, server: Server, promise: str, what: str, hit: Attack) -> None:
    victim = attack.Victim(server.url)
    token = await attack.new_token(server.url)
    await victim.client.connect(server.url, auth={"token": token}, transports=["websocket"])
    for _ in range(20):
        await victim.call()
    hitting = asyncio.create_task(hit(ground, server))
    began = time.monotonic()
    figures = await victim.until(hitting.done)
    await hitting
    took = time.monotonic() - began
    await victim.call()
    await victim.client.disconnect()
    ground.tried(promise, what, "seconds", took)
    ground.count(promise, what, "the server's peak memory, MiB", memory_mib(server.pid, "VmHWM"), MOST_MIB)
    worst = max(figures.answered, default=0.0) / 1e3
    ground.time(promise, what, "another client's longest wait, s", worst, VICTIM_SECONDS)
    uploads = server.folder / "data_dir" / "uploads"
    stored = sum(file.stat().st_size for file in uploads.iterdir()) if uploads.exists() else 0
    ground.count(promise, what, "bytes that stayed in uploads", stored)
