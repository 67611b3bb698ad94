"""`optivus say` and `optivus voices`.

text ─▶ job ─progress─▶ bar in percent
            ─audio────▶ player, while it is being spoken
            ─final────▶ file, whole or not at all; one that is there is replaced when the speech is there
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .aio import AsyncClient
from .command import Commands, done, new_command, status_of, writable
from .console import cancelled_with_us, followed, say, visible
from .job import AsyncJob
from .player import Player, PlayerEnded
from .tasks import given
from .writing import write

ENDINGS = {".wav": "wav", ".mp3": "mp3", ".opus": "opus", ".ogg": "opus", ".pcm": "pcm"}
"""A file's ending → the format of the sound in it."""


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


def add(commands: Commands) -> None:
    """The commands' arguments."""
    _add_voices(commands)
    spoken = new_command(commands, "say", "text to speech")
    spoken.add_argument("text", metavar="TEXT", help="what to say; - reads it from standard input")
    voice = spoken.add_mutually_exclusive_group()
    voice.add_argument("--voice", metavar="ID", help="in a saved voice, see `optivus voices`")
    voice.add_argument("--reference", type=Path, metavar="FILE", help="in the voice of this recording")
    spoken.add_argument("--reference-text", metavar="T", help="what is said in the recording")
    spoken.add_argument("--play", action="store_true", help="let it be heard while it is being spoken")
    spoken.add_argument(
        "-o", "--output", type=_sound_file, metavar="OUT", help=f"write it to this file: {', '.join(ENDINGS)}"
    )
    spoken.add_argument("--seed", type=int, metavar="N", help="the same number says it the same way")
    spoken.add_argument("--temperature", type=float, metavar="X", help="how freely it speaks")
    spoken.set_defaults(run=_say)


def _add_voices(commands: Commands) -> None:
    voices = new_command(commands, "voices", "list the saved voices; add, delete")
    voices.set_defaults(run=lambda args: status_of(list_voices(args.server)))
    actions = voices.add_subparsers(metavar="COMMAND")
    add = actions.add_parser("add", help="save a voice and print its id", allow_abbrev=False)
    add.add_argument("file", type=Path, metavar="FILE", help="1 to 60 s of one person speaking")
    add.add_argument("--text", metavar="T", help="what is said in it; by default as the server understands it")
    add.add_argument("--name", metavar="N")
    add.add_argument("--description", metavar="D")
    add.set_defaults(
        run=lambda args: status_of(add_voice(args.server, args.file, args.text, args.name, args.description))
    )
    delete = actions.add_parser("delete", help="forget a saved voice", allow_abbrev=False)
    delete.add_argument("id", metavar="ID")
    delete.set_defaults(run=lambda args: status_of(delete_voice(args.server, args.id)))
    for action in (add, delete):  # where it is not given here, what was given before it holds
        action.add_argument("--server", default=argparse.SUPPRESS, metavar="URL", help="the server's address")


def _say(args: argparse.Namespace) -> int:
    if not args.play and not args.output:
        args.refuse("where to: --play, -o OUT, or both")
    if args.reference_text is not None and args.reference is None:
        args.refuse("--reference-text is what is said in the recording of --reference; give both")
    text = args.text
    if text == "-":
        if sys.stdin is None:
            args.refuse("standard input is closed, so no text can be read from it")
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            args.refuse("standard input is not text in UTF-8")
    options = {"seed": args.seed, "temperature": args.temperature}
    speech = Speech(text, args.voice, args.reference, args.reference_text, args.play, args.output, options)
    return status_of(speak(args.server, speech))


def _sound_file(name: str) -> Path:
    path = writable(name)
    if path.suffix.lower() not in ENDINGS:
        raise argparse.ArgumentTypeError(f"the ending of {name} should say in which format: {', '.join(ENDINGS)}")
    target = path.resolve()
    if target.is_file() or not target.exists():  # it is written beside its place and then moved there
        try:
            tempfile.TemporaryFile(dir=target.parent).close()
        except OSError as exc:
            raise argparse.ArgumentTypeError(f"{name} cannot be written: {exc.strerror} ({target.parent})") from exc
    return path


async def speak(server: str, speech: Speech) -> bool:
    """Say it; False when that failed, which is said on standard error."""

    async def spoken(client: AsyncClient) -> None:
        player = Player.found() if speech.play else None
        async with cancelled_with_us("The speech", _asked(client, speech)) as job:
            if player is None:
                await _saved(job, speech.output)
            else:
                await _saved_and_heard(job, speech.output, player)

    return await done(server, spoken, (PlayerEnded,))


async def list_voices(server: str) -> bool:
    """Print the saved voices, one in a line."""

    async def listed(client: AsyncClient) -> None:
        voices = await client.voices()
        for voice in voices:
            created = time.strftime("%Y-%m-%d %H:%M", time.localtime(voice.created_at))
            print(f"{voice.reference_id}  {voice.duration:4.1f} s  {created}  {visible(voice.name or '')}".rstrip())
        if not voices:
            say("There are no saved voices; `optivus voices add FILE` saves one.")

    return await done(server, listed)


async def add_voice(server: str, recording: Path, text: str | None, name: str | None, description: str | None) -> bool:
    """Save a voice and print its id."""

    async def added(client: AsyncClient) -> None:
        about = given(reference_text=text, name=name, description=description)
        saving = client.submit("fish", reference_audio=await client.upload(recording), **about)
        async with cancelled_with_us("The voice", saving) as job:
            print((await job.result())["reference_id"])

    return await done(server, added)


async def delete_voice(server: str, reference_id: str) -> bool:
    """Forget a saved voice."""
    return await done(server, lambda client: client.delete_voice(reference_id))


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
    answer = await followed(job, "speaking")
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
