"""`optivus transcribe`: files to text, with a bar while it lasts and the text as it comes.

    file ─upload─▶ bar in bytes ─▶ job ─progress─▶ bar in percent, with the server's estimate
                                       ─partial──▶ a line on the terminal, in order, once
                                       ─final────▶ what has not been shown yet; or all of it, when nobody watches

A retry on the server may change a line that was already given. A terminal is then shown the whole text again; what is
written into a file or a pipe cannot be taken back, so it is written when it is certain: after the final answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .aio import AsyncClient
from .errors import OptivusError, ServerUnreachable
from .events import Final, Partial, Progress
from .job import AsyncJob

LEAVE_SECONDS = 5.0
"""How long Ctrl-C waits for the server's word that the job is cancelled."""

TITLE_COLUMNS = 30
PERCENT_BAR = "{l_bar}{bar}| {elapsed}{postfix}"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the transcription."""

    language: str | None = None
    translate: bool = False
    words: bool = False

    def params(self) -> dict[str, Any]:
        """The same as parameters of ``whisp``; what is not said is left to the server."""
        asked = {
            "language": self.language,
            "task": "translate" if self.translate else None,
            "word_timestamps": self.words or None,
        }
        return {name: value for name, value in asked.items() if value is not None}


def say(sentence: str) -> None:
    """A sentence on standard error, above the bar if there is one."""
    tqdm.write(sentence, file=sys.stderr)


async def transcribe(server: str, files: Sequence[str], options: Options, output: Output) -> bool:
    """Transcribe one file after the other; False when one failed. What went wrong is said on standard error."""
    done = True
    try:
        async with AsyncClient(server, notify=_connection) as client:
            for name in files:
                try:
                    await _file(client, name, options, output)
                except ServerUnreachable:
                    raise
                except (OptivusError, OSError) as exc:
                    if isinstance(exc, BrokenPipeError):
                        raise
                    say(f"{name}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}")
                    done = False
    except OptivusError as exc:
        say(str(exc))
        return False
    return done


async def _file(client: AsyncClient, name: str, options: Options, output: Output) -> None:
    title = _title(name)
    with _bar(desc=title, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        file_id = await client.upload(name, partial(_sent, bar))
    lines = Lines(live=output.live)
    with _bar(desc=title, total=1.0, bar_format=PERCENT_BAR) as bar:
        async with _cancelled_with_us(client, name, file_id, options) as job:
            async for event in job.events():
                match event:
                    case Progress():
                        _move(bar, title, event)
                    case Partial(index=index, data={"text": str(text)}):
                        lines.add(index, text)
                    case Final(status="success"):
                        bar.update(1.0 - bar.n)
        answer = await job.result()
    chunks = answer["transcribe_audio"]["chunks"]
    if not chunks:
        say(f"{name}: no speech was found in it.")
    output.write(name, answer, lines.rest([chunk["text"] for chunk in chunks]))


@contextlib.asynccontextmanager
async def _cancelled_with_us(client: AsyncClient, name: str, file_id: str, options: Options) -> AsyncIterator[AsyncJob]:
    """The job of a file, cancelled on the server when this command is (Ctrl-C), also in mid-submission."""
    submission = asyncio.ensure_future(client.submit("whisp", file=file_id, **options.params()))
    try:
        yield await asyncio.shield(submission)
    except asyncio.CancelledError:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await (await submission).cancel()
            say(f"{name}: cancelled, on the server too.")
        except (TimeoutError, OptivusError):
            say(f"{name}: stopped here, but the server could not be told; its job may go on.")
        raise


def _sent(bar: Any, sent: int, total: int) -> None:
    bar.total = total
    bar.update(sent - bar.n)


def _move(bar: Any, title: str, progress: Progress) -> None:
    bar.set_description(f"{title}: {progress.stage}" if progress.stage else title, refresh=False)
    if progress.eta is not None:
        bar.set_postfix_str(f"{tqdm.format_interval(progress.eta)} left", refresh=False)
    bar.n = max(bar.n, progress.fraction or 0.0)
    bar.refresh()


def _title(name: str) -> str:
    """A file's name, short enough that the bar has room beside it."""
    title = Path(name).name
    half = TITLE_COLUMNS // 2
    return title if len(title) <= TITLE_COLUMNS else f"{title[:half]}…{title[1 - half :]}"


def _bar(**shape: Any) -> Any:
    """A bar on standard error that goes when it is done, and is none where nobody sees it."""
    return tqdm(file=sys.stderr, disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True, **shape)


def _connection(connected: bool) -> None:
    say("The connection is back." if connected else "The connection to the server was lost; trying again.")


@dataclass(slots=True)
class Lines:
    """The chunks of one transcript, shown as they come: each once, in order."""

    live: bool
    _waiting: dict[int, str] = field(default_factory=dict)
    _shown: list[str] = field(default_factory=list)

    def add(self, index: int, text: str) -> None:
        """A chunk that is there, shown when all before it are."""
        if not self.live:
            return
        self._waiting[index] = text
        while len(self._shown) in self._waiting:
            self._shown.append(self._waiting.pop(len(self._shown)))
            tqdm.write(self._shown[-1].strip(), file=sys.stdout)

    def rest(self, texts: list[str]) -> list[str]:
        """What of the final text is still to be shown."""
        if texts[: len(self._shown)] == self._shown:
            return texts[len(self._shown) :]
        say("The server has corrected lines that were already shown; the whole text again:")
        return texts


class Output:
    """Where transcripts go: standard output or a file, as lines of text or one JSON object per line."""

    def __init__(self, path: Path | None, as_json: bool) -> None:
        self.live = path is None and not as_json and sys.stdout.isatty()
        self._path = path
        self._json = as_json
        self._mode = "w"  # then appended to: a run replaces the file at its first transcript

    def write(self, name: str, answer: dict[str, Any], texts: list[str]) -> None:
        """The answer about the file `name`. texts: the chunks that have not been shown yet."""
        text = (
            json.dumps({"file": name, **answer}, ensure_ascii=False) if self._json else "\n".join(map(str.strip, texts))
        )
        if not text:
            return
        if self._path is None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            return
        with self._path.open(self._mode, encoding="utf-8") as file:
            file.write(text + "\n")
        self._mode = "a"
