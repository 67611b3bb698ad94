"""Results too large for an event, and those that are bytes: files under DATA_DIR, named in the ledger, put back where
their reference stands.

A client's `id`, which stands in the same body, may look like a reference; it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from contract.folders import Folders
from contract.messages import BLOB, BLOB_NAME, is_blob

_DEPTH = 3
"""A reference stands for a stage's result or for a field of it: never deeper than data[i].result.field."""
MARK = orjson.dumps(BLOB)
"""Stands in the text of every body that has a reference."""
_GAP = b"\0"
"""Stands in no JSON that orjson writes."""


def held(value: Any, depth: int = _DEPTH) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the blobs that a value refers to."""
    if isinstance(value, dict):
        if is_blob(value):
            yield value[BLOB], value["bytes"]
            return
        value = list(value.values())
    if isinstance(value, list) and depth:
        for part in value:
            yield from held(part, depth - 1)


def read(name: str, folders: Folders) -> Any:
    """What a blob holds: JSON, as values, or bytes. Raises: OSError; ValueError for what is no name of a blob."""
    if not BLOB_NAME.fullmatch(name):
        raise ValueError("this is no name of a blob")
    content = (folders.blobs / name).read_bytes()
    return content if name.endswith(".bin") else orjson.loads(content)


def weight(body: dict[str, Any]) -> int:
    """Bytes of the blobs that a body refers to; 0 when there are none."""
    return sum(size for key, value in body.items() if key != "id" for _, size in held(value))


def parts(body: dict[str, Any], folders: Folders, attached: list[Path] | None = None) -> list[bytes | Path]:
    """The body as JSON in parts: its text, and the files whose content belongs between. Looks at the disk.

    attached: takes the files of bytes, for which a Socket.IO placeholder then stands; without it they too are parts.
    """
    between: list[Path] = []

    def place(path: Path) -> Any:
        path.stat()
        if attached is not None and path.suffix == ".bin":
            attached.append(path)
            return {"_placeholder": True, "num": len(attached) - 1}
        between.append(path)
        return orjson.Fragment(_GAP)

    texts = orjson.dumps(_replaced(body, folders, place)).split(_GAP)
    return [part for pair in zip_longest(texts, between) for part in pair if part is not None]


def _replaced(body: dict[str, Any], folders: Folders, content: Callable[[Path], Any]) -> dict[str, Any]:
    def replaced(value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            if is_blob(value):
                try:
                    return content(folders.blobs / value[BLOB])
                except FileNotFoundError:  # past its retention, or something that only looks like a reference
                    return value
            return {key: replaced(part, depth - 1) for key, part in value.items()} if depth else value
        if isinstance(value, list) and depth:
            return [replaced(part, depth - 1) for part in value]
        return value

    return {key: value if key == "id" else replaced(value, _DEPTH) for key, value in body.items()}
