"""The environment of the command, which is read here only.

OPTIVUS_SERVER   the server's address, where --server is not given
OPTIVUS_TOKEN    the client that the commands are, instead of the one that is kept for this user
XDG_STATE_HOME   the folder of what is kept (~/.local/state)
"""

from __future__ import annotations

import os
from pathlib import Path

from .aio import DEFAULT_URL


def server() -> str:
    """The address of the server that is meant where none is given."""
    return os.environ.get("OPTIVUS_SERVER", "").strip() or DEFAULT_URL


def token() -> str | None:
    """The token that the user has given."""
    return os.environ.get("OPTIVUS_TOKEN", "").strip() or None


def state_folder() -> Path:
    """Where what outlives a command is kept. Raises: OSError when this user has no such place."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".local" / "state") / "optivus"
    except RuntimeError as exc:
        raise OSError(None, "this user has no home folder") from exc
