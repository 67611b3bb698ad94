"""`optivus describe` and `optivus video`: what pictures and films show, and what is said in films too.

describe   file ─▶ flrnc ─▶ a caption; of a film a line for each stretch that looks alike, with its times
video      file, URL ─▶ video ─▶ one timeline: [what is seen] and what is said, by their beginnings
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from .aio import AsyncClient
from .command import Commands, done, json_line, new_command, status_of
from .console import cancelled_with_us, followed, say, shown
from .errors import OptivusError, ServerUnreachable
from .sources import at_server, check_element, check_stdin, is_url, say_failed, titles_of
from .tasks import given
from .transcribe import add_speech_options, add_track_option

PROMPTS = (
    "caption, detailed caption, more detailed caption, od (objects), dense region caption, region proposal, ocr, "
    "ocr with region; with --text: caption to phrase grounding, referring expression segmentation, "
    "open vocabulary detection"
)

Work = Callable[[AsyncClient, str, str], AsyncIterator[str]]
"""(client, source, title for bars) → the lines to print. Raises: OSError, OptivusError, perhaps after some of them."""


def add(commands: Commands) -> None:
    """The commands' arguments."""
    describe = new_command(commands, "describe", "what pictures and videos show")
    describe.add_argument("files", nargs="+", metavar="FILE", help="a picture or a video; a URL of a video; or -")
    _add_looks(describe)
    describe.add_argument("--json", action="store_true", help="the whole answers, one JSON line per file")
    describe.set_defaults(run=_describe)

    video = new_command(commands, "video", "what is said and what is seen in videos, on one timeline")
    video.add_argument("files", nargs="+", metavar="URL|FILE", help="a page or a file with a video; or -")
    add_speech_options(video)
    add_track_option(video)
    _add_looks(video)
    video.add_argument("--json", action="store_true", help="the whole answers, one JSON line per video")
    video.set_defaults(run=_video)


def _add_looks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", type=_prompt, metavar="P", help=f"what Florence-2 is to do: {PROMPTS}")
    parser.add_argument("--text", metavar="T", help="what to look for, for the last three")
    parser.add_argument("--interval", type=float, metavar="S", help="of videos: seconds between looks")
    parser.add_argument("--max-frames", type=int, metavar="N", help="of videos: caption no more pictures than this")


def _prompt(text: str) -> str:
    """``<OD>`` for ``od``, since angle brackets mean something else to a shell."""
    words = text.strip().strip("<>").upper().replace("-", " ").replace("_", " ").split()
    return f"<{'_'.join(words)}>"


def _looks(args: argparse.Namespace) -> dict[str, Any]:
    return given(prompt=args.prompt, text=args.text, interval=args.interval, max_frames=args.max_frames)


def _describe(args: argparse.Namespace) -> int:
    several = len(args.files) > 1

    async def lines(client: AsyncClient, name: str, title: str) -> AsyncIterator[str]:
        file, info = await at_server(client, name, title)
        async with cancelled_with_us(name, client.submit("flrnc", file=file, **_looks(args))) as job:
            answer = await followed(job, title)
        if args.json:
            yield json_line({"file": name, **answer, **given(info=info)})
            return
        found = list(_seen(answer))
        if not found:
            say(f"{name}: nothing was found in it.")
        for line in found:
            yield f"{name}: {line}" if several else line

    return _each(args, lines)


def _video(args: argparse.Namespace) -> int:
    whisper = given(language=args.language, task="translate" if args.translate else None, track=args.track)

    async def lines(client: AsyncClient, name: str, title: str) -> AsyncIterator[str]:
        source: dict[str, Any] = {"urls": [name]}
        if not is_url(name):
            source = {"files": [(await at_server(client, name, title))[0]]}
        asked = client.submit("video", **source, whisper=whisper, florence=_looks(args))
        async with cancelled_with_us(name, asked) as job:
            [element] = (await followed(job, title))["data"]
        check_element(element)
        halves = [element[half] for half in ("transcribe_audio", "transcribe_video")]
        wrong = [half for half in halves if isinstance(half, dict) and "error_code" in half]
        if args.json:
            yield json_line({"file": name, **element})
        elif len(wrong) < len(halves):
            if len(args.files) > 1:
                yield f"{name}:"
            for line in timeline(element):
                yield line
        for half in wrong[:1]:
            check_element(half)

    return _each(args, lines)


def timeline(element: dict[str, Any]) -> list[str]:
    """What is said, and [what is seen], by when it begins; a half that is an error is left out."""
    said, seen = element["transcribe_audio"].get("chunks", ()), element["transcribe_video"]
    events = [(chunk["start"], 1, chunk["text"].strip()) for chunk in said]
    if isinstance(seen, list):
        events += [(segment["start"], 0, f"[{segment['text']}]") for segment in seen]
    return [f"{clock(start)}  {text}" for start, _, text in sorted(events)]


def _seen(answer: dict[str, Any]) -> Iterator[str]:
    """The lines that tell a person of an answer of ``flrnc``."""
    if "transcribe_img" in answer:
        yield from _looked_at(answer["transcribe_img"])
        return
    for segment in answer["transcribe_video"]:
        times = f"{clock(segment['start'])}-{clock(segment['end'])}"
        for line in _looked_at(segment) or [""]:
            yield f"{times}  {line}".rstrip()


def _looked_at(seen: dict[str, Any]) -> list[str]:
    """A caption; or places, one in a line with its box in pixels: left, top, right, bottom."""
    if seen.get("regions"):
        return [
            f"{region['label']} ({', '.join(f'{side:.0f}' for side in region['box'])})".strip()
            for region in seen["regions"]
        ]
    return [seen["text"]] if seen["text"] else []


def clock(seconds: float) -> str:
    """A time in a film: ``01:02.3``, with hours where there are any."""
    tenths = round(seconds * 10)
    hours, minutes = divmod(tenths // 600, 60)
    return f"{hours}:{minutes:02d}:{tenths % 600 / 10:04.1f}" if hours else f"{minutes:02d}:{tenths % 600 / 10:04.1f}"


def _each(args: argparse.Namespace, lines: Work) -> int:
    """Work on one source after the other. A source that fails does not stop the others."""
    check_stdin(args, args.files)
    return status_of(done(args.server, lambda client: _printed(client, args.files, lines)))


async def _printed(client: AsyncClient, names: Sequence[str], lines: Work) -> bool:
    whole = True
    for name, title in zip(names, titles_of(list(names)), strict=True):
        try:
            async for line in lines(client, name, title):
                print(shown(line), flush=True)
        except (ServerUnreachable, BrokenPipeError):
            raise
        except (OptivusError, OSError) as exc:
            say_failed(name, exc)
            whole = False
    return whole
