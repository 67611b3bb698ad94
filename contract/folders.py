"""Where the server's files lie: plain paths, which every process is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

KEY_BYTES = 32
"""Of the secret key; one that is shorter was cut short."""


@dataclasses.dataclass(frozen=True, slots=True)
class Folders:
    """Where files lie; every path absolute with its links resolved.

    roots: what a client may read by path. data: the ledger, uploads, blobs, models. voices: saved voices. speech,
    downloads: what the server makes for its owners, readable only by them.
    """

    roots: tuple[Path, ...]
    data: Path
    voices: Path
    speech: Path
    downloads: Path

    @property
    def hidden(self) -> tuple[Path, ...]:
        """Folders in which nobody reads by path."""
        return self.data, self.voices

    @property
    def made(self) -> tuple[Path, ...]:
        """Folders whose files only their owners read."""
        return self.speech, self.downloads

    @property
    def ledger(self) -> Path:
        return self.data / "ledger.sqlite3"

    @property
    def key(self) -> Path:
        """What signs the clients' tokens."""
        return self.data / "secret.key"

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    @property
    def blobs(self) -> Path:
        return self.data / "blobs"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def work(self) -> Path:
        return self.data / "work"

    @property
    def temporary(self) -> Path:
        """What libraries and programs write for a while, in a folder for each confined process."""
        return self.data / "temporary"

    @property
    def run(self) -> Path:
        """Where the server's processes find each other."""
        return self.data / "run"
