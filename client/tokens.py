"""The clients that a user's commands are, one for each server: what one terminal starts, another one sees and stops.

A token opens its client's jobs and files, so the file is its user's alone. Commands that begin at the same time agree
on one client: whoever comes first.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .writing import appearing

NAME = "tokens.json"


class Tokens:
    """`tokens.json` in a folder: an object with a token for each server's base URL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME

    def of(self, url: str) -> str | None:
        """The token for a server, if there is one. Raises: OSError when the file cannot be read."""
        return self._load().get(url)

    def keep(self, url: str, token: str, instead_of: str | None) -> str:
        """Keep the token that a server gave to who came with `instead_of`.

        Returns the token that is kept from now on: another one, when another command was faster. Raises: OSError.
        """
        with self._locked():
            tokens = self._load()
            other = tokens.get(url)
            if other is not None and other not in (instead_of, token):
                return other
            if other != token:
                with appearing(self._path) as path:
                    path.touch(mode=0o600)
                    path.write_text(json.dumps({**tokens, url: token}, indent=1) + "\n", encoding="utf-8")
        return token

    def _load(self) -> dict[str, str]:
        try:
            tokens = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):  # not there, or nothing that we wrote
            return {}
        return {url: token for url, token in tokens.items() if isinstance(token, str)} if type(tokens) is dict else {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if sys.platform != "win32":
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
