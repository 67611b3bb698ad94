"""Files of this machine, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def growing(folder: Path) -> Iterator[Path]:
    """A path in `folder` to write to, for `settle`; what is there when the block ends is deleted."""
    path = folder / f".{secrets.token_hex(8)}.part"  # no longer than any name that a source may have
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def settle(path: Path, target: Path) -> None:
    """Make the whole file `path` become `target`, whatever was there."""
    with path.open("rb") as written:
        os.fsync(written.fileno())
    path.replace(target)


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` when all has been written."""
    with growing(target.parent) as path:
        yield path
        settle(path, target)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; what is no file (a pipe, a device) is written to. Raises: OSError."""
    target = path.resolve()
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        with appearing(target) as growing:
            growing.write_bytes(content)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc  # the error names the file as the person did


def free_name(folder: Path, name: str) -> Path:
    """A path in `folder` where nothing is yet: `name`, or the same with a number.

    name: as a server told it; what is no plain file name in it (folders, control characters) is left out.
    """
    plain = "".join(letter for letter in name.replace("\\", "/").rpartition("/")[2] if letter.isprintable())
    path = folder / (plain.lstrip(".") or "download")
    number = 1
    while os.path.lexists(path):
        number += 1
        path = path.with_name(f"{Path(plain).stem.lstrip('.') or 'download'}-{number}{path.suffix}")
    return path
