"""A real server in a process of its own, for tests that talk to it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
STARTED = "listening"
"""The log line that names the port, which is chosen by the system."""


class Server:
    """`python server.py` with its data under `folder`, which outlives it: `kill`, then `start`, is a restart.

    settings: further variables; without them one address may ask as often as it likes.
    `log` holds what it has written, one JSON object per line.
    """

    cwd: Path = ROOT
    """The folder it is started in."""
    flags: Sequence[str] = ()
    """Of Python."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = 0
        self.log: list[str] = []
        names = {name: str(folder / name.lower()) for name in ("DATA_DIR", "VOICES_DIR", "FS_PATH", "PATH_VIDEO")}
        self.settings = {**names, "HOST": "127.0.0.1", "PORT": "0", "REQUESTS_PER_SECOND": "0", **settings}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers. Raises: RuntimeError with its log when it ends instead."""
        self._process = subprocess.Popen(
            [sys.executable, *self.flags, str(ROOT / "server.py")],
            cwd=self.cwd,
            env={**os.environ, **self.settings},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if f'"{STARTED}"' in line:
                self.port = urlsplit(json.loads(line)["url"]).port or 0
                threading.Thread(target=self.log.extend, args=(self._process.stderr,), daemon=True).start()
                return
        raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def worker(self, name: str) -> int:
        """The pid of a worker's process."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=20) as health:
            return int(json.load(health)["workers"][name]["processes"][0]["pid"])

    def kill(self) -> None:
        """kill -9, as a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as an operator. Returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return self._process.wait(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self.stop()
