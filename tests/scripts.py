"""Scripts for the played Whisper of tests/client_workers: files to transcribe, and the gate that lets it go on."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.servers import Server


def scripted_server(folder: Path) -> Server:
    """A server that reads files under `folder` and whose Whisper follows them."""
    return Server(folder, WORKERS_PATH=str(Path(__file__).parent / "client_workers"), MEDIA_ROOTS=str(folder))


class Script:
    """A file of which each text becomes a chunk; with a gate, when the test opens it."""

    def __init__(
        self, folder: Path, texts: Sequence[str], *, gated: bool = False, draft: str = "", padding: int = 0
    ) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.json"
        self._gate = self.path.with_suffix(".fifo") if gated else None
        gate = str(self._gate) if gated else None
        script = {"texts": list(texts), "gate": gate, "draft": draft, "padding": "." * padding}
        self.path.write_text(json.dumps(script))

    def __enter__(self) -> Self:
        if self._gate:
            os.mkfifo(self._gate)
            # For reading too: then it opens at once, and what was written waits there for the next process.
            self._fifo = os.open(self._gate, os.O_RDWR)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._gate:
            self._gate.unlink()
            self.open(1)  # who still waits there goes on, and fails at the next chunk
            os.close(self._fifo)

    def open(self, chunks: int) -> None:
        """Let so many more chunks through."""
        os.write(self._fifo, b"." * chunks)


def pass_gates(gates: list[Any]) -> list[Any]:
    """Of a played model: wait at each gate that there is until a test lets one more through."""
    for gate in gates:
        if gate:
            with Path(gate).open("rb", buffering=0) as fifo:
                fifo.read(1)
    return gates
