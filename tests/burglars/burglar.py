"""What a hole in a decoder would let a stranger do, tried from within a worker: confined, and as users' own are."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from contract.errors import ModelUnavailable
from contract.folders import Folders
from workers.base import Confinement, Context, FileRef, Params, Run, Worker

FETCHED = "fetched"


def connect(family: int, address: Any) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.connect(address)
    return "connected"


TRIES: dict[str, Callable[[str], Any]] = {
    "read": lambda path: Path(path).read_bytes()[:100].decode(errors="replace"),
    "write": lambda path: Path(path).write_text("burgled"),
    "unlink": lambda path: Path(path).unlink(),
    "list": lambda path: len(list(Path(path).iterdir())),
    "cat": lambda path: subprocess.run(["cat", path], capture_output=True, text=True, check=True).stdout,
    "tcp": lambda port: connect(socket.AF_INET, ("127.0.0.1", int(port))),
    "unix": lambda path: connect(socket.AF_UNIX, path),
    "udp": lambda port: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"?", ("127.0.0.1", int(port))),
    "signal": lambda pid: os.kill(int(pid), 0),
    "temporary": lambda _: tempfile.mkstemp()[1],
    "core": lambda _: resource.getrlimit(resource.RLIMIT_CORE)[0],
}


class BurglarParams(Params):
    tries: list[list[str]] = []
    file: FileRef | None = None


class Burglar(Worker):
    name = "burglar"
    message_type = "burglar"
    answer: ClassVar[dict[str, Any]] = {"got": "$burglar"}
    Params = BurglarParams
    example: ClassVar[dict[str, Any]] = {}

    @classmethod
    def confinement(cls, settings: Any, folders: Folders) -> Confinement | None:
        return Confinement(writes=(folders.speech,))

    @classmethod
    def pull(cls, settings: Any, folders: Folders, say: Any) -> None:
        folders.models.mkdir(parents=True, exist_ok=True)
        (folders.models / FETCHED).write_text("weights")

    def load(self) -> dict[str, Any]:
        assert (self.folders.models / FETCHED).read_text() == "weights"
        return {}

    def run(self, params: BurglarParams, ctx: Context) -> Run:
        """Result: of each try what it gave, None where it was refused."""
        yield None
        got = [self._tried(*one) for one in params.tries]
        return got if params.file is None else [ctx.local(params.file).read_text(), *got]

    def _tried(self, how: str, what: str) -> Any:
        try:
            return TRIES[how](what)
        except (PermissionError, subprocess.CalledProcessError):
            return None

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class Guest(Burglar):
    """A user's own worker, which says nothing of confinement, though it was made of one that does."""

    name = "guest"
    message_type = "guest"
    answer: ClassVar[dict[str, Any]] = {"got": "$guest"}

    def load(self) -> dict[str, Any]:
        return {}


class Absent(Burglar):
    """What it needs cannot be fetched."""

    name = "absent"
    message_type = "absent"
    answer: ClassVar[dict[str, Any]] = {"got": "$absent"}

    @classmethod
    def confinement(cls, settings: Any, folders: Folders) -> Confinement | None:
        return Confinement()

    @classmethod
    def pull(cls, settings: Any, folders: Folders, say: Any) -> None:
        raise ModelUnavailable("The burglar's tools are nowhere to be had.")
