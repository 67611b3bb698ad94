"""A recording that grows while its client sends it: the server appends, and a worker follows.

    client ──audio──▶ append() ──▶ the file of an upload ◀── a worker reads on from where it was
              end ──▶ finish()                           ◀── finished()

The file's own mode says whether more may come: it is writable until the recording has ended, so both processes, and a
later start of them, see the same without asking each other. One that its owner deletes has ended with what was heard.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

from contract.errors import InvalidInput, TooLarge


def append(path: Path, offset: int | None, sound: bytes, limit: int) -> int:
    """Add what follows the recording so far. Returns how many bytes there are now.

    offset: where `sound` begins, in bytes; what is there already is skipped, so that a piece may be sent twice. Beyond
    the end nothing is added, and the answer tells from where to send again. None: at the end.
    Raises: InvalidInput when the recording has ended, TooLarge beyond `limit` bytes, OSError.
    """
    if finished(path):
        if offset is not None and path.exists() and offset + len(sound) <= (size := path.stat().st_size):
            return size  # the last piece again, whose acknowledgement was lost
        raise InvalidInput("This recording has ended; begin another with a new 'listen'.", field="job_id")
    with path.open("ab") as file:
        size = file.tell()
        begin = size if offset is None else offset
        fresh = sound[size - begin :] if begin <= size else b""
        if size + len(fresh) > limit:
            raise TooLarge(f"A recording may have {limit / 1e9:g} GB here (MAX_UPLOAD_GB).", field="audio")
        file.write(fresh)
        return size + len(fresh)


def finish(path: Path) -> None:
    """The recording is whole."""
    with suppress(FileNotFoundError):
        path.chmod(stat.S_IRUSR)


def finished(path: Path) -> bool:
    try:
        return not path.stat().st_mode & stat.S_IWUSR
    except FileNotFoundError:
        return True
