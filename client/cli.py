"""The command `optivus`.

    optivus transcribe FILE…     upload, transcribe, print; many files one after another, folders with all they hold
      --format srt,vtt           write files beside the sources instead; a second run does only what is missing
    optivus say TEXT             speak: play it while it is being spoken, write it to a file, or both
    optivus listen               write down what is said into the microphone, while it is said
    optivus voices               the saved voices: list, add, delete
    optivus models pull [NAME]   on the server's machine: fetch a model's weights before the first request

Exit status: 0 all well · 1 a file or a model failed, the others were done · 2 wrong use · 130 stopped by Ctrl-C, 143 by
SIGTERM, 129 by a closed terminal (SIGHUP); what was under way is cancelled on the server too.
What was asked for alone goes to standard output; bars and sentences go to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from . import models
from .aio import DEFAULT_URL
from .beside import FORMATS, Beside, Files, missing, sources_of
from .console import say
from .microphone import listen
from .speech import ENDINGS, Speech, add_voice, delete_voice, list_voices, speak
from .transcribe import Options, Output, say_failed, transcribe

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status; wrong use ends in SystemExit(2), as argparse does."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`optivus … | head`). Nothing can be said to it, nor at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optivus", description="Work with an Optivus media server.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"optivus {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    files = commands.add_parser("transcribe", help="audio and video files to text", allow_abbrev=False)
    files.add_argument(
        "files", nargs="+", metavar="FILE", help="an audio or video file of this machine, or a folder of such files"
    )
    files.add_argument("--server", default=DEFAULT_URL, metavar="URL", help="the server's address (%(default)s)")
    files.add_argument("--language", metavar="L", help="the spoken language, e.g. en or ja; detected when not given")
    files.add_argument("--translate", action="store_true", help="into English")
    files.add_argument("--words", action="store_true", help="with --json: the time of every word")
    files.add_argument("--json", action="store_true", help="the whole answers with their times, one JSON line per file")
    files.add_argument("-o", "--output", type=_writable, metavar="OUT", help="write to this file instead of the screen")
    files.add_argument(
        "--format",
        action="extend",
        type=_formats,
        metavar="F",
        dest="formats",
        help=f"write files beside each source, and skip those that are there: {', '.join(FORMATS)}; several by commas",
    )
    files.add_argument("--overwrite", action="store_true", help="with --format: replace files that are there")
    files.set_defaults(run=_transcribe, refuse=files.error)

    _add_listen(commands)
    _add_say(commands)
    _add_voices(commands)
    weights = commands.add_parser("models", help="the models of the server on this machine", allow_abbrev=False)
    pull = weights.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "pull", help="fetch a model; nothing is done when it is there", allow_abbrev=False
    )
    pull.add_argument(
        "names", nargs="*", metavar="NAME", help="whisper (when none is named), florence, fish, one of your own, or all"
    )
    pull.set_defaults(run=lambda args: models.pull(args.names))
    return parser


def _add_listen(commands: Any) -> None:
    microphone = commands.add_parser("listen", help="the microphone to text, until Ctrl-C", allow_abbrev=False)
    microphone.add_argument("--server", default=DEFAULT_URL, metavar="URL", help="the server's address (%(default)s)")
    microphone.add_argument(
        "--language", metavar="L", help="the spoken language, e.g. en or ja; detected when not given"
    )
    microphone.add_argument("--translate", action="store_true", help="into English")
    microphone.set_defaults(run=_listen)


def _listen(args: argparse.Namespace) -> int:
    options = {"language": args.language, "task": "translate" if args.translate else "transcribe"}
    return _status(listen(args.server, options))


def _add_say(commands: Any) -> None:
    spoken = commands.add_parser("say", help="text to speech", allow_abbrev=False)
    spoken.add_argument("text", metavar="TEXT", help="what to say; - reads it from standard input")
    spoken.add_argument("--server", default=DEFAULT_URL, metavar="URL", help="the server's address (%(default)s)")
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
    spoken.set_defaults(run=_say, refuse=spoken.error)


def _add_voices(commands: Any) -> None:
    voices = commands.add_parser("voices", help="list the saved voices; add, delete", allow_abbrev=False)
    voices.add_argument("--server", default=DEFAULT_URL, metavar="URL", help="the server's address (%(default)s)")
    voices.set_defaults(run=lambda args: _status(list_voices(args.server)))
    actions = voices.add_subparsers(metavar="COMMAND")
    add = actions.add_parser("add", help="save a voice and print its id", allow_abbrev=False)
    add.add_argument("file", type=Path, metavar="FILE", help="1 to 60 s of one person speaking")
    add.add_argument("--text", metavar="T", help="what is said in it; by default as the server understands it")
    add.add_argument("--name", metavar="N")
    add.add_argument("--description", metavar="D")
    add.set_defaults(
        run=lambda args: _status(add_voice(args.server, args.file, args.text, args.name, args.description))
    )
    delete = actions.add_parser("delete", help="forget a saved voice", allow_abbrev=False)
    delete.add_argument("id", metavar="ID")
    delete.set_defaults(run=lambda args: _status(delete_voice(args.server, args.id)))
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
    return _status(speak(args.server, speech))


def _status(work: Coroutine[Any, Any, bool]) -> int:
    """The exit status of a command's work, which SIGTERM and SIGHUP cancel as Ctrl-C does."""
    stopped: list[int] = []

    async def until_stopped() -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            stopped.append(number)
            task.cancel()

        if sys.platform != "win32":
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                    loop.add_signal_handler(number, stop, number)
        return await work

    try:
        done = asyncio.run(until_stopped())
    except (asyncio.CancelledError, OSError):  # the latter from a terminal that is gone
        if not stopped:
            raise
        return 128 + stopped[0]
    return 0 if done else FAILED


def _transcribe(args: argparse.Namespace) -> int:
    if args.formats and (args.json or args.output):
        args.refuse("--format writes files beside the sources; leave out --json and --output, or run once with each")
    if args.overwrite and not args.formats:
        args.refuse("--overwrite is about the files that --format writes; --output replaces its file anyway")
    options = Options(language=args.language, translate=args.translate, words=args.words)
    failed: list[str] = []

    def refuse(name: str, exc: Exception) -> None:
        say_failed(name, exc)
        failed.append(name)

    sources = sources_of(args.files, refuse)
    output: Output | Files = Output(args.output, args.json)
    if args.formats:
        beside = Beside(sources, list(dict.fromkeys(args.formats)), overwrite=args.overwrite)
        todo, done = missing(beside, refuse)
        if done:
            say(f"{done} of {len(beside.sources)} files were done already.")
        sources, output = list(todo), Files(beside, todo)
    status = _status(transcribe(args.server, sources, options, output)) if sources else 0
    return status or (FAILED if failed else 0)


def _formats(text: str) -> list[str]:
    formats = text.lower().replace(",", " ").split()
    if not formats or not set(formats) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FORMATS)}")
    return formats


def _sound_file(name: str) -> Path:
    path = _writable(name)
    if path.suffix.lower() not in ENDINGS:
        raise argparse.ArgumentTypeError(f"the ending of {name} should say in which format: {', '.join(ENDINGS)}")
    target = path.resolve()
    if target.is_file() or not target.exists():  # it is written beside its place and then moved there
        try:
            tempfile.TemporaryFile(dir=target.parent).close()
        except OSError as exc:
            raise argparse.ArgumentTypeError(f"{name} cannot be written: {exc.strerror} ({target.parent})") from exc
    return path


def _writable(name: str) -> Path:
    """Checked before the work, which may take hours, and not after it."""
    path = Path(name)
    try:
        writable = name.endswith(path.name) and not path.is_dir() and path.parent.is_dir()  # "x/" names a folder
        writable = writable and os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:  # a name longer than any may be
        writable = False
    if not writable:
        raise argparse.ArgumentTypeError(f"{name} cannot be written; name a file in a folder that exists")
    return path


def _version() -> str:
    try:
        return importlib.metadata.version("optivus")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
