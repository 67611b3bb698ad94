"""What strangers try: others' jobs, files out of bounds, inner addresses, spoilt media. P12 and P13."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from tests.bad_paths import bad_paths
from tests.chaos.floods import MOST_MIB, VICTIM_SECONDS
from tests.chaos.report import Ground, say
from tests.conftest import contract_like_server
from tests.films import film_server
from tests.flips import PUBLIC, REFUSED, SECRET, Flipped, answers
from tests.messages import attacked, logged_faults, played_server
from tests.mutants import mutant, seeds
from tests.peers import PATIENCE, Gate, Peer
from tests.sandboxed import ask as ask_sandboxed
from tests.servers import Server
from tests.sites import INNER, Site

HERE = Path(__file__).parent.parent
AT_ONCE = 4
ID_DIGITS = "0123456789abcdef"
FAULTS = ("INTERNAL", "OUT_OF_MEMORY", "WORKER_DIED", "unanswered")


async def guesses(ground: Ground) -> None:
    """A stranger asks for another's job by every way in, and for jobs that never were: the answers are the same."""
    what = "ids guessed"
    with contract_like_server(ground.folder) as server, Gate(ground.folder) as gate:
        async with Peer(server.url) as peer, Peer(server.url) as stranger, aiohttp.ClientSession() as http:
            job = (await peer.ask(gate.message))["job_id"]
            asked = told_apart = 0
            for _ in range(ground.pick(5, 300)):
                never = "job_" + "".join(ground.chance.choices(ID_DIGITS, k=len(job) - 4))
                theirs, none = [
                    [answer async for answer in every_way(server, stranger, http, id)] for id in (job, never)
                ]
                asked += len(theirs)
                told_apart += sum(
                    repr(one).replace(job, never) != repr(other) for one, other in zip(theirs, none, strict=True)
                )
            await stranger.settle()
            heard = len(stranger.of(job))
            gate.open()
            ended = (await peer.final(job))["status"]
    ground.tried("P12", what, "questions for another's job", asked)
    ground.count("P12", what, "answers that differ from those for a job that never was", told_apart)
    ground.count("P12", what, "events heard of another's job", heard)
    ground.count("P12", what, "jobs of others stopped", ended != "success")


async def every_way(server: Server, stranger: Peer, http: aiohttp.ClientSession, job: str) -> Any:
    for message in (
        {"type": "cancel", "job_id": job},
        {"type": "resume", "jobs": {job: 0}},
    ):
        yield await stranger.ask(message)
    ways = (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/ticket"))
    for token, (method, path) in itertools.product((stranger.token, None), ways):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with http.request(method, f"{server.url}/jobs/{job}{path}", headers=headers, json={}) as response:
            yield response.status, await response.text()


async def forbidden_files(ground: Ground) -> None:
    """Paths out of bounds, then one that is flipped with links, pipes and folders while it is read."""
    (ground.folder / "films").mkdir()
    outside = ground.folder / "outside"
    outside.mkdir()
    with contract_like_server(ground.folder, WORKERS_PATH=str(HERE / "flip_workers")) as server:
        paths = {path: code for path, code in bad_paths(server.folder, outside).values() if code in REFUSED}
        async with Peer(server.url) as peer:
            wrong = [path for path, code in paths.items() if await _read(peer, path) != code]
            flipped = Flipped(server.folder / "media" / "films" / "talk.wav", outside / "secret")
            with flipped.flipping():
                found = await answers(ground.pick(200, 10_000), lambda: _read(peer, "films/talk.wav"))
    ground.tried("P13", "paths out of bounds", "paths", len(paths))
    ground.count("P13", "paths out of bounds", "not refused, or by another error", len(wrong))
    ground.tried("P13", "a file flipped with links, pipes, folders", "requests", found.total())
    ground.tried("P13", "a file flipped with links, pipes, folders", "flips", flipped.changes)
    foreign = sum(times for answer, times in found.items() if SECRET.decode() in answer)
    ground.count("P13", "a file flipped with links, pipes, folders", "foreign reads", foreign)
    known = {(2 * PUBLIC).decode(), *REFUSED}
    other = sum(times for answer, times in found.items() if answer not in known)
    ground.count("P13", "a file flipped with links, pipes, folders", "other answers than the file or a refusal", other)


async def _read(peer: Peer, path: str) -> str:
    """What a worker read of a file, or the code of the refusal."""
    said = await peer.ask({"type": "reader", "file": path})
    final = await peer.final(said["job_id"]) if said["status"] == "accepted" else said
    return str(final.get("error_code") or final["read"])


def inner_addresses(ground: Ground) -> None:
    """Downloads from an allowed site that lead to another one on this machine, and whatever else a process may try."""
    ways = ask_sandboxed(attempts=True)
    asked = ground.chance.sample(INNER, ground.pick(2, len(INNER)))
    wrong = 0
    with Site(ground.folder / "site") as site, Site(ground.folder / "other") as other:
        for path in asked:
            url = site.url(path.format(other=other.url(""), port=other.port))
            found = ask_sandboxed(fetch=url, allow=[["127.0.0.1", site.port]])
            wrong += found.get("error_code") != "URL_FORBIDDEN"
        reached = len(other.seen)
    what = "downloads that lead to inner addresses"
    ground.tried("P13", what, "ways tried", len(ways) + len(asked))
    ground.count("P13", what, "inner addresses reached", reached)
    ground.count("P13", what, "ways not refused", wrong + sum(end != "Refused" for end in ways.values()))


async def strange_messages(ground: Ground) -> None:
    """Events, packets, requests and forms, made from the schemas, to every door."""
    with played_server(ground.folder) as server:
        figures = await attacked(server, ground.pick(400, 20_000), ground.seed)
        logged = logged_faults(server)
    for fault in figures.faults:
        say(f"  {fault}")
    what = "messages made from the schemas"
    kinds = Counter(kind.partition(" ")[0] for kind, _ in figures.faults)
    ground.tried("P13", what, "messages", figures.messages)
    ground.count("P13", what, "INTERNAL", kinds.pop("INTERNAL", 0))
    ground.count("P13", what, "unanswered", kinds.pop("unanswered", 0))
    ground.count("P13", what, "other faults", kinds.total())
    ground.count("P13", what, "exceptions in the log", len(logged))
    ground.time("P13", what, "another client's longest wait, s", figures.slowest, VICTIM_SECONDS)
    ground.count("P15", what, "the server's peak memory, MiB", figures.peak_mib, MOST_MIB)


async def spoilt_media(ground: Ground, whisper: Path, florence: Path) -> None:
    """Spoilt files of every container that can be written here, to Whisper and Florence as uploads."""
    known = seeds(ground.folder, every=ground.long)
    first, count = ground.seed * 1_000_000, ground.pick(24, 5000)
    found: Counter[str] = Counter()
    waiting = iter(range(first, first + count))
    with film_server(ground.folder, whisper, florence) as server:

        async def some() -> None:
            async with Peer(server.url) as peer, aiohttp.ClientSession(server.url) as http:
                for seed in waiting:
                    name, content = mutant(known, seed)
                    for kind in ("whisp", "flrnc"):
                        found[code := await _judged(peer, http, kind, content)] += 1
                        if code in FAULTS:
                            say(f"  {kind} of mutant {seed}, {name}: {code}")
                    if (seed - first) % 500 == 499:
                        say(f"  {seed - first + 1} of {count} files")

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        async with aiohttp.ClientSession(server.url) as http, http.get("/health") as health:
            workers = (await health.json())["workers"]
        logged = sum('"exception"' in line or "Traceback" in line for line in server.log)
    what = f"spoilt media ({len(known)} kinds)"
    ground.tried("P13", what, "files, each heard and looked at", count)
    for code in FAULTS:
        ground.count("P13", what, code, found[code])
    ground.count(
        "P13", what, "workers started again", sum(workers[name]["restarts"] for name in ("whisper", "florence"))
    )
    ground.count("P13", what, "exceptions in the log", logged)


async def _judged(peer: Peer, http: aiohttp.ClientSession, kind: str, content: bytes) -> str:
    form = aiohttp.FormData()
    form.add_field("file", content, filename="upload")
    headers = {"Authorization": f"Bearer {peer.token}"}
    async with http.post("/files", data=form, headers=headers) as response:
        file = (await response.json())["file_id"]
    said = await peer.ask({"type": kind, "file": file})
    if said["status"] == "accepted":
        try:
            async with asyncio.timeout(PATIENCE):
                said = await peer.final(said["job_id"])
        except TimeoutError:
            return "unanswered"
    peer.heard.clear()
    async with http.delete(f"/files/{file}", headers=headers):
        return str(said.get("error_code", said["status"]))
