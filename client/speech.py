"""`optivus say` and `optivus voices`.

text ─▶ job ─progress─▶ bar in percent
            ─audio────▶ player, while it is being spoken
            ─final────▶ file, whole or not at all; one that is there is replaced when the speech is there
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .aio import AsyncClient
from .console import cancelled_with_us, connection, move, percent_bar, say, visible
from .errors import OptivusError
from .events import Progress
from .job import AsyncJob
from .player import Player, PlayerEnded
from .tasks import given
from .writing import write

ENDINGS = {".wav": "wav", ".mp3": "mp3", ".opus": "opus", ".ogg": "opus", ".pcm": "pcm"}
"""What a file's ending says about the sound in it."""


@dataclass(frozen=True, slots=True)
class Speech:
    """What the command line says about it: `text`, in whose voice, and where to, of which there is at least one.

    voice: the id of a saved one; reference, reference_text: or a recording and what is said in it.
    options: further parameters of ``fish``.
    """

    text: str
    voice: str | None
    reference: Path | None
    reference_text: str | None
    play: bool
    output: Path | None
    options: dict[str, Any]


async def speak(server: str, speech: Speech) -> bool:
    """Say it; False when that failed, which is said on standard error."""

    async def spoken(client: AsyncClient) -> None:
        player = Player.found() if speech.play else None
        async with cancelled_with_us("The speech", _asked(client, speech)) as job:
            if player is None:
                await _saved(job, speech.output)
            else:
                await _saved_and_heard(job, speech.output, player)

    return await _done(server, spoken)


async def list_voices(server: str) -> bool:
    """Print the saved voices, one in a line."""

    async def listed(client: AsyncClient) -> None:
        voices = await client.voices()
        for voice in voices:
            created = time.strftime("%Y-%m-%d %H:%M", time.localtime(voice.created_at))
            print(f"{voice.reference_id}  {voice.duration:4.1f} s  {created}  {visible(voice.name or '')}".rstrip())
        if not voices:
            say("There are no saved voices; `optivus voices add FILE` saves one.")

    return await _done(server, listed)


async def add_voice(server: str, recording: Path, text: str | None, name: str | None, description: str | None) -> bool:
    """Save a voice and print its id."""

    async def added(client: AsyncClient) -> None:
        about = given(reference_text=text, name=name, description=description)
        saving = client.submit("fish", reference_audio=await client.upload(recording), **about)
        async with cancelled_with_us("The voice", saving) as job:
            print((await job.result())["reference_id"])

    return await _done(server, added)


async def delete_voice(server: str, reference_id: str) -> bool:
    """Forget a saved voice."""
    return await _done(server, lambda client: client.delete_voice(reference_id))


async def _done(server: str, work: Callable[[AsyncClient], Awaitable[None]]) -> bool:
    try:
        async with AsyncClient(server, notify=connection) as client:
            await work(client)
    except (OptivusError, PlayerEnded) as exc:
        say(str(exc))
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        say(f"{os.fspath(exc.filename)}: {exc.strerror}" if exc.filename and exc.strerror else str(exc))
    else:
        return True
    return False


async def _asked(client: AsyncClient, speech: Speech) -> AsyncJob:
    params = given(
        text=speech.text,
        reference_id=speech.voice,
        reference_audio=speech.reference and await client.upload(speech.reference),
        reference_text=speech.reference_text,
        audio_format=ENDINGS[speech.output.suffix.lower()] if speech.output else "none",
        stream=speech.play or None,
        **speech.options,
    )
    return await client.submit("fish", **params)


async def _saved(job: AsyncJob, output: Path | None) -> None:
    with percent_bar("speaking") as bar:
        async for event in job.events():
            if isinstance(event, Progress):
                move(bar, "speaking", event)
    answer = await job.result()
    if answer.get("cut"):
        say("Not all of it was said: a sentence was longer than what can be said at once.")
    if output is not None:
        await asyncio.to_thread(write, output, answer["audio_data"])


async def _saved_and_heard(job: AsyncJob, output: Path | None, player: Player) -> None:
    saving = asyncio.create_task(_saved(job, output))
    playing = asyncio.create_task(player.play(job))
    try:
        await asyncio.gather(saving, playing)
    except PlayerEnded:
        if output is None:
            await job.cancel()  # nobody hears it
        else:
            await saving
        raise
    finally:
        saving.cancel()
        playing.cancel()
        await asyncio.gather(saving, playing, return_exceptions=True)
