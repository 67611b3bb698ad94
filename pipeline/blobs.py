"""Results too large for an event, and those that are bytes: files under DATA_DIR, named in the ledger, put back where
their reference stands.

A client's `id`, which stands in the same body, may look like a reference; it is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from media.files import Folders
from pipeline.messages import BLOB

_DEPTH = 3
"""A reference stands for a stage's result or for a field of it: never deeper than data[i].result.field."""
_NAME = re.compile(r"[0-9a-f]{32}\.(json|bin)")


def references(value: Any, depth: int = _DEPTH) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the blobs that a value refers to."""
    if isinstance(value, dict):
        if _is_reference(value):
            yield value[BLOB], value["bytes"]
            return
        value = list(value.values())
    if isinstance(value, list) and depth:
        for part in value:
            yield from references(part, depth - 1)


def weight(body: dict[str, Any]) -> int:
    """Bytes of the blobs that a body refers to; 0 when there are none."""
    return sum(size for key, value in body.items() if key != "id" for _, size in references(value))


def inlined(body: dict[str, Any], folders: Folders) -> dict[str, Any]:
    """The body with every blob's content in the place of its reference. Reads the disk: call it in a thread.

    What is JSON stays the text that it is, as an `orjson.Fragment`, for it is only passed on: a minute of speech as a
    list is millions of numbers.
    """
    return {key: value if key == "id" else _inlined(value, folders, _DEPTH) for key, value in body.items()}


def _inlined(value: Any, folders: Folders, depth: int) -> Any:
    if isinstance(value, dict):
        if _is_reference(value):
            return _content(value, folders)
        return {key: _inlined(part, folders, depth - 1) for key, part in value.items()} if depth else value
    if isinstance(value, list) and depth:
        return [_inlined(part, folders, depth - 1) for part in value]
    return value


def _content(reference: dict[str, Any], folders: Folders) -> Any:
    try:
        content = (folders.blobs / reference[BLOB]).read_bytes()
    except FileNotFoundError:  # past its retention, or something that only looks like a reference
        return reference
    return content if reference[BLOB].endswith(".bin") else orjson.Fragment(content)


def _is_reference(value: dict[str, Any]) -> bool:
    return (
        value.keys() == {BLOB, "bytes"} and bool(_NAME.fullmatch(str(value[BLOB]))) and isinstance(value["bytes"], int)
    )
