"""Small files that would cost minutes, beside somebody's small one: P16."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from media.audio import SAMPLE_RATE, decode
from tests import bombs
from tests.chaos.report import Ground, say
from tests.films import film_server
from tests.peers import Peer
from tests.recordings import EXAMPLE, write
from tests.shapes import drawing

CLIP_SECONDS = 5
BOMB_SECONDS = 10.0
TIMES_ALONE = 2.0
TAGS, STREAMS, CHAPTERS = 100_000, 30_000, 20_000

Make = Callable[[Path], Path]

SOUNDS: dict[str, Make] = {
    "100 000 tags in a flac": lambda path: bombs.flac_tags(path, TAGS),
    "100 000 tags in a mka": lambda path: bombs.matroska_tags(path, TAGS),
    "100 000 tags in an mp3": lambda path: bombs.mp3_tags(path, TAGS),
    "100 000 tags in an ogg": lambda path: bombs.ogg_tags(path, TAGS),
    "20 000 chapters in a mka": lambda path: bombs.matroska_chapters(path, CHAPTERS),
    "an ogg of 30 000 streams": lambda path: bombs.ogg_streams(path, STREAMS),
    "a gap of six days in a mka": lambda path: bombs.long_ago(path.with_suffix(".mka"), "libopus", bombs.DAYS),
    "a gap of six days in a nut": lambda path: bombs.long_ago(path.with_suffix(".nut"), "pcm_s16le", bombs.DAYS),
    "2 000 gaps of 50 minutes": lambda path: bombs.ogg_at(path, (3_000.0 * number for number in range(2_000))),
    "an m4a that claims 2³⁰ samples": lambda path: bombs.mp4_samples(path, 1 << 30),
}
PICTURES: dict[str, Make] = {
    "10 000 frames of 9 megapixels in a gif": lambda path: bombs.gif(path, (3000, 3000), 10_000),
    "a million frames in a gif": lambda path: bombs.gif(path, (1, 1), 1_000_000),
}
QUICK = ("a gap of six days in a mka", "a million frames in a gif")


async def costs(ground: Ground, whisper: Path, florence: Path) -> None:
    speech = np.concatenate(list(decode(EXAMPLE)))[: CLIP_SECONDS * SAMPLE_RATE]
    clip = write(ground.folder / "clip.wav", speech, rate=SAMPLE_RATE)
    drawing("red circle").image().save(ground.folder / "picture.png")
    made = {kind: _made(ground, each) for kind, each in (("whisp", SOUNDS), ("flrnc", PICTURES))}
    with film_server(ground.folder, whisper, florence) as server:
        async with Peer(server.url) as victim, Peer(server.url) as stranger:
            for kind, small in (("whisp", clip.name), ("flrnc", "picture.png")):
                asked = {"type": kind, "file": small}
                await victim.answer(asked)
                alone = [await _seconds(victim, asked) for _ in range(ground.pick(3, 9))]
                for what, path in made[kind].items():
                    for count in (1, 2) if ground.long else (1,):
                        bomb = {"type": kind, "file": path.name}
                        await _beside(ground, what, (victim, asked, alone), (stranger, bomb, count))


def _made(ground: Ground, bombs: dict[str, Make]) -> dict[str, Path]:
    """Before anybody waits for an answer, since it takes long."""
    return {
        what: make(ground.folder / f"bomb {number} of {len(bombs)}")
        for number, (what, make) in enumerate(bombs.items())
        if ground.long or what in QUICK
    }


async def _beside(
    ground: Ground, what: str, small: tuple[Peer, dict[str, str], list[float]], bomb: tuple[Peer, dict[str, str], int]
) -> None:
    """The small file again and again until the bombs have ended, and as often as it was sent alone at least."""
    victim, asked, alone = small
    stranger, message, count = bomb
    began = time.monotonic()
    bombs_under_way = [asyncio.create_task(stranger.answer(message)) for _ in range(count)]
    over: list[float] = []
    for under_way in bombs_under_way:
        under_way.add_done_callback(lambda _: over.append(time.monotonic() - began))
    beside: list[float] = []
    while len(over) < count or len(beside) < len(alone):
        beside.append(await _seconds(victim, asked))
    codes = {answer.get("error_code", "done") for answer in [task.result() for task in bombs_under_way]}
    name = what if count == 1 else f"{what}, two at once"
    say(f"  {name}: {', '.join(sorted(codes))}; {len(beside)} beside, {max(beside):.2f} s at most")
    ground.count("P16", name, "ended as a fault", len(codes & {"INTERNAL", "OUT_OF_MEMORY", "WORKER_DIED"}))
    ground.time("P16", name, "seconds until it was refused or done", max(over), BOMB_SECONDS)
    usual = statistics.median(alone)
    ground.tried("P16", name, "the longest of small jobs, times that alone", max(beside) / usual)
    times = statistics.median(beside[: len(alone)]) / usual
    ground.time("P16", name, "a small job's time, times that alone", times, TIMES_ALONE)


async def _seconds(peer: Peer, message: dict[str, str]) -> float:
    began = time.monotonic()
    assert (await peer.answer(message))["status"] == "success"
    return time.monotonic() - began
