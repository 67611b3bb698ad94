"""`optivus download`: what is behind URLs, downloaded by the server and fetched to this machine.

URLs ─▶ dlp ─progress─▶ bar in percent
            ─partial──▶ an item: its file is fetched, with a bar in bytes, while the server goes on with the next
            ─final────▶ what has not been fetched yet
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from .aio import AsyncClient
from .beside import is_media
from .command import Commands, done, json_line, new_command, status_of, writable
from .console import cancelled_with_us, move, percent_bar, shown
from .describe import clock
from .errors import OptivusError, ServerUnreachable
from .events import Partial, Progress
from .sources import byte_bar, check_element, say_failed, sent, titles_of

ABOUT = ("uploader", "duration", "view_count", "like_count", "url")
"""Keys of an item that are printed under its title."""


def add(commands: Commands) -> None:
    """The command's arguments."""
    download = new_command(commands, "download", "videos and sounds behind URLs, fetched to this machine")
    download.add_argument("urls", nargs="+", metavar="URL", help="a page or a file")
    download.add_argument(
        "-o",
        "--output",
        type=_place,
        default=Path(),
        metavar="FOLDER",
        help="where to put them; or, for one URL, the file to write, with the ending of a sound or a video",
    )
    download.add_argument("--info", action="store_true", help="download nothing, only say what is there")
    download.add_argument("--json", action="store_true", help="the whole answers, one JSON line per URL")
    download.set_defaults(run=_run)


def _place(name: str) -> Path:
    path = Path(name)
    if is_media(name) and not path.is_dir():
        return writable(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"{name} is no folder to write into: {exc.strerror}") from exc
    return path


def _run(args: argparse.Namespace) -> int:
    if len(args.urls) > 1 and not args.output.is_dir():
        args.refuse(f"{args.output} can be one file only; name a folder for several URLs")
    return status_of(done(args.server, lambda client: _download(client, args)))


async def _download(client: AsyncClient, args: argparse.Namespace) -> bool:
    run = Run(client, args)
    asked = client.submit("dlp", urls=args.urls, data_type="info" if args.info else "file")
    async with cancelled_with_us("The download", asked) as job:
        try:
            async for event in job.events():
                match event:
                    case Progress():
                        run.show(event)
                    case Partial(item=(at,), data={"url": _} as item):
                        await run.take(at, item)
        finally:
            run.hide()
        for at, item in enumerate((await job.result())["data"]):
            await run.take(at, item)
    return run.whole


class Run:
    """The items of one run, each taken once. whole: nothing went wrong so far."""

    def __init__(self, client: AsyncClient, args: argparse.Namespace) -> None:
        self.whole = True
        self._client = client
        self._args = args
        self._titles = titles_of(args.urls)
        self._taken: set[int] = set()
        self._bar: Any = None

    def show(self, progress: Progress) -> None:
        """How far the server is, as a bar."""
        if self._bar is None:
            self._bar = percent_bar("downloading")
        move(self._bar, "downloading", progress)

    def hide(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    async def take(self, at: int, item: dict[str, Any]) -> None:
        """Fetch or tell the item at a place in the list. Raises: ServerUnreachable, BrokenPipeError."""
        if at in self._taken:
            return
        self._taken.add(at)
        self.hide()
        try:
            check_element(item)
            path = None if self._args.info else await self._fetched(item, self._titles[at])
        except (ServerUnreachable, BrokenPipeError):
            raise
        except (OptivusError, OSError) as exc:
            say_failed(self._args.urls[at], exc)
            self.whole = False
            return
        if self._args.json:
            print(json_line({**item, "saved": str(path)} if path else item), flush=True)
        else:
            print(*map(shown, [str(path)] if path else about(item)), sep="\n", flush=True)

    async def _fetched(self, item: dict[str, Any], title: str) -> Path:
        with byte_bar(title) as bar:
            return await self._client.download(item["file"], self._args.output, partial(sent, bar))


def about(item: dict[str, Any]) -> list[str]:
    """An item of ``dlp`` as printed lines: its title, and below it what the source says."""
    lines = [item.get("fulltitle") or item["url"]]
    for name in ABOUT:
        value = item.get(name)
        if value is not None:
            lines.append(f"  {name.replace('_', ' ')}: {clock(value) if name == 'duration' else value}")
    lines += [f"  {line}" for line in (item.get("description") or "").splitlines()]
    if (playlist := item.get("playlist")) is not None:
        lines.append(f"  the first of {playlist['count']} in {playlist['title'] or 'a list'}:")
        lines += [f"    {entry['url']}  {entry.get('fulltitle') or ''}".rstrip() for entry in item.get("entries", ())]
    return lines
