"""`optivus transcribe`: files to text, with a bar while it lasts and the text as it comes.

file ─upload─▶ bar in bytes ─▶ job ─progress─▶ bar in percent, with the server's estimate
URL ──dlp────▶ bar in percent ─▶   ─partial──▶ a line on the terminal (`outputs`)
                                   ─final────▶ all of it, where it is to go
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .aio import AsyncClient
from .beside import FORMATS, Beside, Files, Refused, missing, sources_of
from .command import FAILED, Commands, connected, new_command, status_of, writable
from .console import cancelled_with_us, move, percent_bar, say
from .errors import OptivusError, ServerUnreachable
from .events import Final, Partial, Progress
from .outputs import Lines, Output, Subtitles
from .sources import STDIN, at_server, check_stdin, is_url, say_failed, titles_of

JSON_ENDINGS = (".json", ".jsonl")
Sink = Output | Subtitles | Files


def add(commands: Commands) -> None:
    """The command's arguments."""
    files = new_command(commands, "transcribe", "audio and video files to text")
    files.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="an audio or video file of this machine, a folder of such files, a URL, or - for standard input",
    )
    add_speech_options(files)
    add_track_option(files)
    files.add_argument("--words", action="store_true", help="with --json: the time of every word")
    files.add_argument("--json", action="store_true", help="the whole answers with their times, one JSON line per file")
    files.add_argument(
        "-o",
        "--output",
        type=_destination,
        metavar="OUT",
        help="write to this file instead of the screen (-); its ending says what: .srt, .vtt, .ass, .tsv, .json, else "
        "text",
    )
    files.add_argument(
        "--format",
        action="extend",
        type=_formats,
        metavar="F",
        dest="formats",
        help=f"write files beside each source, and skip those that are there: {', '.join(FORMATS)}; several by commas",
    )
    files.add_argument("--overwrite", action="store_true", help="with --format: replace files that are there")
    files.add_argument(
        "--name-language", action="store_true", help="with --format: with the language in their names, talk.en.srt"
    )
    files.set_defaults(run=_run)


def add_speech_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about speech that is to be written down."""
    parser.add_argument(
        "--language", type=_language, metavar="L", help="the spoken language, e.g. en or ja; detected when not given"
    )
    parser.add_argument("--translate", action="store_true", help="into English")


def add_track_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names one of a file's audio tracks."""
    parser.add_argument(
        "--track", metavar="T", help="of several audio tracks: its number from 1 on, or its language; else the main one"
    )


def _language(text: str) -> str:
    return text.strip().lower()


def _formats(text: str) -> list[str]:
    formats = text.lower().replace(",", " ").split()
    if not formats or not set(formats) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FORMATS)}")
    return formats


def _run(args: argparse.Namespace) -> int:
    _check(args)
    failed: list[str] = []

    def refuse(name: str, exc: Exception) -> None:
        say_failed(name, exc)
        failed.append(name)

    options = Options(language=args.language, translate=args.translate, track=args.track, words=args.words)
    sources = sources_of(args.files, refuse)
    output = _output(args, sources)
    if args.formats:
        language = _named_language(args) if args.name_language else None
        beside = Beside(sources, list(dict.fromkeys(args.formats)), overwrite=args.overwrite, language=language)
        todo, done = missing(beside, refuse)
        if done:
            say(f"{done} of {len(beside.sources)} files were done already.")
        sources, output = list(todo), Files(beside, todo)
    try:
        status = status_of(transcribe(args.server, sources, options, output)) if sources else 0
    finally:
        _say_written(output.written)
    return status or (FAILED if failed else 0)


def _named_language(args: argparse.Namespace) -> str:
    """The language in the names of files; empty when only the answer will tell."""
    language = "en" if args.translate else args.language or ""
    return language if re.fullmatch("[a-z]{2,3}", language) else ""


def _check(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, as wrong use."""
    if args.formats and (args.json or args.output):
        args.refuse("--format writes files beside the sources; leave out --json and --output, or run once with each")
    if args.overwrite and not args.formats:
        args.refuse("--overwrite is about the files that --format writes; --output replaces its file anyway")
    if args.name_language and not args.formats:
        args.refuse("--name-language is about the files that --format writes; name the file of --output yourself")
    if args.formats and any(name == STDIN or is_url(name) for name in args.files):
        args.refuse("--format writes beside files of this machine; for - and URLs say -o OUT.srt")
    check_stdin(args, args.files)


def _destination(text: str) -> Path | None:
    """The file that somebody names; None for standard output, which is called as standard input is."""
    return None if text == STDIN else writable(text)


def _output(args: argparse.Namespace, sources: Sequence[str]) -> Sink:
    ending = args.output.suffix.lower() if args.output else ""
    if ending[1:] not in FORMATS or ending == ".txt":
        return Output(args.output, args.json or ending in JSON_ENDINGS)
    if args.json:
        args.refuse(f"--json is no {ending} file; leave one of them out, or let the file's name end in .json")
    if len(sources) > 1:
        args.refuse(f"one {ending} file holds one transcript; --format {ending[1:]} writes one beside each source")
    return Subtitles(args.output, ending[1:])


def _say_written(files: Sequence[Path]) -> None:
    folders = sorted({str(path.parent) for path in files})
    if len(files) > 3:
        where = folders[0] if len(folders) == 1 else f"{len(folders)} folders, {folders[0]} the first"
        say(f"Written: {len(files)} files in {where}.")
    elif files:
        say(f"Written: {', '.join(map(str, files))}.")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the transcription."""

    language: str | None = None
    translate: bool = False
    track: str | None = None
    words: bool = False

    def params(self) -> dict[str, Any]:
        """The same as parameters of ``whisp``; what is not said is left to the server."""
        asked = {
            "language": self.language,
            "task": "translate" if self.translate else None,
            "track": self.track,
            "word_timestamps": self.words or None,
        }
        return {name: value for name, value in asked.items() if value is not None}


async def transcribe(server: str, files: Sequence[str], options: Options, output: Sink) -> bool:
    """Transcribe one file after the other; False when one failed. What went wrong is said on standard error."""
    done = True
    try:
        async with connected(server) as client:
            for name, title in zip(files, titles_of(list(files)), strict=True):
                try:
                    await _file(client, name, title, options, output)
                except (ServerUnreachable, BrokenPipeError):
                    raise
                except (OptivusError, OSError, Refused) as exc:
                    say_failed(name, exc)
                    done = False
    except OptivusError as exc:
        say(str(exc))
        return False
    return done


async def _file(client: AsyncClient, name: str, title: str, options: Options, output: Sink) -> None:
    file, info = await at_server(client, name, title)
    params = options.params() | output.params(name)
    lines = Lines(live=output.live)
    with percent_bar(title) as bar:
        async with cancelled_with_us(name, client.submit("whisp", file=file, **params)) as job:
            async for event in job.events():
                match event:
                    case Progress():
                        move(bar, title, event)
                    case Partial(index=index, data={"text": str(text)}):
                        lines.add(index, text)
                    case Final(status="success"):
                        bar.update(1.0 - bar.n)
        answer = await job.result()
    chunks = answer["transcribe_audio"]["chunks"]
    if not chunks:
        say(f"{name}: no speech was found in it.")
    if info is not None:
        answer = {**answer, "info": info}
    output.write(name, answer, lines.rest([chunk["text"] for chunk in chunks]))
