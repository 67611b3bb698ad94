"""A microphone: how far the text is behind the speaker, with one listener, several, and a long file beside them.

    AI_WHISPER_MODEL=… .venv/bin/python -m bench.listen CLIP WORDS [--listeners 4] [--rounds 3]

CLIP is played at natural speed, in pieces of 100 ms, each listener half a second after the one before. WORDS is a JSON
list of what is said in it: ``{"word", "start", "end"}``, in seconds. A word's delay is from its true end until it first
stood in a partial; the final delay is from the last word's end until the last chunk was final.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from client import AsyncClient, Partial
from media.audio import SAMPLE_RATE, Audio, decode
from tests.accuracy import words
from tests.recordings import write
from tests.servers import Server

PIECE = SAMPLE_RATE // 10
TAIL_SECONDS = 3.0
"""Silence after the clip, in which its last words become final as they would in a conversation."""
STAGGER_SECONDS = 0.5
CONFERENCE_SECONDS = 1200


class Heard(NamedTuple):
    """Seconds. first: from the end of the first word to the first text; words: of each recognised one."""

    first: float
    words: list[float]
    final: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clip", type=Path)
    parser.add_argument("words", type=Path)
    parser.add_argument("--listeners", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    spoken = np.concatenate(list(decode(args.clip)))
    said = json.loads(args.words.read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write(path / "clip.flac", spoken, "flac", SAMPLE_RATE)
        conference = np.tile(spoken, 1 + CONFERENCE_SECONDS * SAMPLE_RATE // len(spoken))
        write(path / "conference.flac", conference, "flac", SAMPLE_RATE)
        settings = {
            "MEDIA_ROOTS": folder,
            "WHISPER_PRELOAD": "true",
            "AI_WHISPER_MODEL": os.environ["AI_WHISPER_MODEL"],
        }
        print("| | first text s | words s: median | 95 % | final s: median | worst |\n|---|---|---|---|---|---|")
        with Server(path, **settings) as server:
            for name, listeners, beside in (
                ("1 listener", 1, False),
                (f"{args.listeners} listeners", args.listeners, False),
                (f"{args.listeners} listeners and a file", args.listeners, True),
            ):
                rounds = [
                    asyncio.run(conversation(server.url, spoken, said, listeners, beside)) for _ in range(args.rounds)
                ]
                print(f"| {name} | {row([heard for one in rounds for heard in one])} |", flush=True)


def row(heard: list[Heard]) -> str:
    delays = sorted(delay for one in heard for delay in one.words)
    finals = [one.final for one in heard]
    figures = (
        statistics.median(one.first for one in heard),
        statistics.median(delays),
        delays[int(len(delays) * 0.95)],
        statistics.median(finals),
        max(finals),
    )
    return " | ".join(f"{figure:.2f}" for figure in figures)


async def conversation(url: str, spoken: Audio, said: Any, listeners: int, beside: bool) -> list[Heard]:
    async with AsyncClient(url) as client:
        await client.transcribe("clip.flac")  # so that the model is there
        file = await client.submit("whisp", file="conference.flac") if beside else None
        if file is not None:
            await anext(event async for event in file.events() if isinstance(event, Partial))
        heard = await asyncio.gather(*(listen(client, spoken, said, number) for number in range(listeners)))
        if file is not None:
            await file.cancel()
    return heard


async def listen(client: AsyncClient, spoken: Audio, said: Any, number: int) -> Heard:
    await asyncio.sleep(STAGGER_SECONDS * number)
    sound = np.concatenate([spoken, np.zeros(int(TAIL_SECONDS * SAMPLE_RATE), np.float32)])
    pcm = (sound * 32767).astype("<i2")
    told: list[tuple[float, dict[str, Any], int]] = []
    async with client.listen(language="en") as mic:
        began = time.monotonic()

        async def read() -> None:
            async for event in mic.events():
                if isinstance(event, Partial):
                    told.append((time.monotonic() - began, event.data, event.index))

        reading = asyncio.create_task(read())
        for start in range(0, len(pcm), PIECE):
            await asyncio.sleep(max(0.0, began + start / SAMPLE_RATE - time.monotonic()))
            await mic.send(pcm[start : start + PIECE].tobytes())
        await mic.finish()
        await reading
    return delays(told, said)


def delays(told: list[tuple[float, dict[str, Any], int]], said: Any) -> Heard:
    true = ["".join(words(word["word"])) for word in said]
    seen: dict[int, float] = {}
    chunks: dict[int, str] = {}
    for at, data, index in told:
        chunks[index] = data["text"]
        shown = words(" ".join(chunks[key] for key in sorted(chunks)))
        for match in SequenceMatcher(None, true, shown, autojunk=False).get_matching_blocks():
            for k in range(match.a, match.a + match.size):
                seen.setdefault(k, at)
    final = max(at for at, data, _ in told if data["final"])
    return Heard(told[0][0] - said[0]["end"], [at - said[k]["end"] for k, at in seen.items()], final - said[-1]["end"])


if __name__ == "__main__":
    main()
