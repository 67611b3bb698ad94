"""Where transcripts go: the screen, a pipe, a text file, a file of subtitles.

A retry on the server may change a line that was already given. A terminal is then shown the whole text again; what is
written into a file or a pipe cannot be taken back, so it is written when it is certain: after the final answer.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .beside import Refused, exports_of
from .command import json_line
from .console import say, shown, visible
from .writing import write


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
        """The part of the final text that is still to be shown."""
        if texts[: len(self._shown)] == self._shown:
            return texts[len(self._shown) :]
        say("The server has corrected lines that were already shown; the whole text again:")
        return texts


class Output:
    """Where transcripts go: standard output or a file, as lines of text or one JSON object per line.

    written: the file, once there is something in it.
    """

    def __init__(self, path: Path | None, as_json: bool) -> None:
        self.live = path is None and not as_json and sys.stdout.isatty()
        self.written: list[Path] = []
        self._path = path
        self._json = as_json

    def params(self, name: str) -> dict[str, Any]:
        """Parameters that this output adds to the request for a file."""
        return {}

    def write(self, name: str, answer: dict[str, Any], texts: list[str]) -> None:
        """The answer about the file `name`. texts: the chunks that have not been shown yet. Raises: Refused."""
        told = {"file": name, **answer}
        if self._path is None:
            text = json_line(told) if self._json else "\n".join(shown(text.strip()) for text in texts)
            if text:
                print(text, flush=True)
            return
        text = json.dumps(told, ensure_ascii=False) if self._json else "\n".join(text.strip() for text in texts)
        if not text:
            return
        mode = "a" if self.written else "w"  # a run replaces the file at its first transcript
        try:
            with self._path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as exc:
            raise Refused(f"{self._path} could not be written: {exc.strerror}") from exc
        self.written = [self._path]


class Subtitles:
    """Where one transcript goes as subtitles: a file."""

    live = False

    def __init__(self, path: Path, form: str) -> None:
        self.written: list[Path] = []
        self._path = path
        self._form = form

    def params(self, name: str) -> dict[str, Any]:
        return {"formats": [self._form]}

    def write(self, name: str, answer: dict[str, Any], texts: list[str]) -> None:
        """Raises: Refused."""
        try:
            write(self._path, exports_of(answer)[self._form].encode())
        except OSError as exc:
            raise Refused(f"{self._path} could not be written: {exc.strerror}") from exc
        self.written = [self._path]
