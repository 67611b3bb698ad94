"""Thousands of jobs through one server: no process grows, no descriptor stays open. P5."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.chaos.report import Ground, say
from tests.films import film_server, furnish
from tests.peers import Peer
from tests.processes import descendants, memory_mib
from tests.servers import ROOT, Server
from tests.sites import Site

AT_ONCE = 8
GROWTH = 5.0
"""Percent that a process may grow after its warm-up."""
LEAST_MIB = 8.0
"""What allocators take in a step; so much growth says nothing of a small process."""
LOOKS = 4
MORE_FILES = 4
"""Descriptors that may be open at the one look and not at the other: connections, files of the ledger."""
WHAT = "jobs without a pause"


class Size(NamedTuple):
    mib: float
    files: int


async def soak(ground: Ground, whisper: Path, florence: Path, fish: Path) -> None:
    """Jobs that do nothing, and real ones of every worker, each kind in two halves: the first one warms up."""
    empty, real = ground.pick(200, 20_000), ground.pick(8, 512)
    furnish(ground.folder)
    server = film_server(ground.folder, whisper, florence)
    server.settings |= {"WORKERS_PATH": str(ROOT / "bench" / "workers"), "AI_FISH_MODEL": str(fish)}
    with Site(ground.folder / "site") as site, server:
        messages: list[dict[str, Any]] = [
            {"type": "whisp", "file": "film.mp4"},
            {"type": "flrnc", "file": "picture.png"},
            {"type": "flrnc", "file": "silent.mp4"},
            {"type": "dlp", "urls": [site.url("/clip.mp4")], "data_type": "info"},
            {"type": "fish", "text": "Good morning.", "audio_format": "wav", "max_new_tokens": 8},
        ]
        wrong, before = await _half(server, empty // 2, real // 2, messages)
        more, after = await _half(server, empty // 2, real // 2, messages)
        wrong += more
    ground.tried("P5", WHAT, "jobs that do nothing", empty)
    ground.tried("P5", WHAT, "real jobs", real)
    ground.count("P5", WHAT, "jobs that did not succeed", wrong)
    ground.count("P5", WHAT, "processes that are others than before", len(before.keys() ^ after.keys()))
    for name in sorted(before.keys() & after.keys()):
        grown = after[name].mib - before[name].mib
        percent = 100 * grown / before[name].mib
        say(f"  {name}: {before[name]} -> {after[name]}")
        if ground.long:
            ground.count("P5", WHAT, f"{name}: growth, %", percent, max(GROWTH, 100 * LEAST_MIB / before[name].mib))
        more = after[name].files - before[name].files
        ground.count("P5", WHAT, f"{name}: more open files", more, MORE_FILES)


async def _half(server: Server, empty: int, real: int, messages: list[dict[str, Any]]) -> tuple[int, dict[str, Size]]:
    """How many did not succeed, and the least that processes held in the later looks at them: between two looks an
    allocator may keep a tenth of a process or give it back.
    """
    wrong = await _run(server, empty, lambda peer, number: peer.answer({"type": "noop", "value": number}))
    looks = []
    for _ in range(LOOKS):
        wrong += await _run(server, real // LOOKS, lambda peer, number: peer.answer(messages[number % len(messages)]))
        looks.append(await _sizes(server))
    least = {name: min(look[name] for look in looks[1:] if name in look) for name in looks[-1]}
    return wrong, least


async def _run(server: Server, count: int, ask: Callable[[Peer, int], Awaitable[dict[str, Any]]]) -> int:
    waiting = iter(range(count))
    wrong = 0

    async def some() -> None:
        nonlocal wrong
        async with Peer(server.url) as peer:
            for number in waiting:
                answer = await ask(peer, number)
                wrong += answer["status"] != "success"
                peer.heard.clear()
                if number % 2000 == 1999:
                    say(f"  {number + 1} of {count} jobs")

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return wrong


async def _sizes(server: Server) -> dict[str, Size]:
    """The server, its fork server, and its workers by name."""
    async with aiohttp.ClientSession(server.url) as http, http.get("/health") as response:
        workers = (await response.json())["workers"]
    names = {process["pid"]: name for name, worker in workers.items() for process in worker["processes"]}
    return {
        names.get(pid, "server" if pid == server.pid else f"other {number}"): _size(pid)
        for number, pid in enumerate([server.pid, *descendants(server.pid)])
    }


def _size(pid: int) -> Size:
    return Size(round(memory_mib(pid), 1), len(list(Path(f"/proc/{pid}/fd").iterdir())))
