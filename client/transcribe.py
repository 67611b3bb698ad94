"""`optivus transcribe`: files to text, with a bar while it lasts and the text as it comes.

    file ─upload─▶ bar in bytes ─▶ job ─progress─▶ bar in percent, with the server's estimate
                                       ─partial──▶ a line on the terminal, in order, once
                                       ─final────▶ what has not been shown yet; or all of it, when nobody watches

A retry on the server may change a line that was already given. A terminal is then shown the whole text again; what is
written into a file or a pipe cannot be taken back, so it is written when it is certain: after the final answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .aio import AsyncClient
from .beside import Files, Refused
from .console import cancelled_with_us, connection, move, new_bar, percent_bar, say, visible
from .errors import OptivusError, ServerUnreachable
from .events import Final, Partial, Progress

TITLE_COLUMNS = 30


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


def say_failed(name: str, exc: Exception) -> None:
    """What went wrong with a file or folder."""
    say(f"{name}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}")


async def transcribe(server: str, files: Sequence[str], options: Options, output: Output | Files) -> bool:
    """Transcribe one file after the other; False when one failed. What went wrong is said on standard error."""
    done = True
    try:
        async with AsyncClient(server, notify=connection) as client:
            for number, name in enumerate(files, 1):
                title = _title(name) if len(files) == 1 else f"{number}/{len(files)} {_title(name)}"
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


async def _file(client: AsyncClient, name: str, title: str, options: Options, output: Output | Files) -> None:
    with new_bar(desc=title, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        file_id = await client.upload(name, partial(_sent, bar))
    params = options.params() | output.params(name)
    lines = Lines(live=output.live)
    with percent_bar(title) as bar:
        async with cancelled_with_us(name, client.submit("whisp", file=file_id, **params)) as job:
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
    output.write(name, answer, lines.rest([chunk["text"] for chunk in chunks]))


def _sent(bar: Any, sent: int, total: int) -> None:
    bar.total = total
    bar.update(sent - bar.n)


def _title(name: str) -> str:
    """A file's name, short enough that the bar has room beside it."""
    title = visible(Path(name).name)
    half = TITLE_COLUMNS // 2
    return title if len(title) <= TITLE_COLUMNS else f"{title[:half]}…{title[1 - half :]}"


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
            tqdm.write(visible(self._shown[-1].strip()), file=sys.stdout)

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

    def params(self, name: str) -> dict[str, Any]:
        """What the transcription of a file is to be asked for on top."""
        return {}

    def write(self, name: str, answer: dict[str, Any], texts: list[str]) -> None:
        """The answer about the file `name`. texts: the chunks that have not been shown yet. Raises: Refused."""
        lines = [visible(text.strip()) if self.live else text.strip() for text in texts]
        text = json.dumps({"file": name, **answer}, ensure_ascii=False) if self._json else "\n".join(lines)
        if not text:
            return
        if self._path is None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            return
        try:
            with self._path.open(self._mode, encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as exc:
            raise Refused(f"{self._path} could not be written: {exc.strerror}") from exc
        self._mode = "a"
