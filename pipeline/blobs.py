"""Results too large for an event: files under DATA_DIR, named in the ledger, put back where their reference stands."""

from __future__ import annotations

from typing import Any

import orjson

from media.files import Folders
from pipeline.messages import BLOB

_DEPTH = 4
"""A reference stands where a plan's answer puts a stage's result: never deeper than data[i].field."""


def weight(body: Any, depth: int = _DEPTH) -> int:
    """Bytes of the blobs that a body refers to; 0 when there are none."""
    if isinstance(body, dict):
        if BLOB in body:
            return int(body["bytes"])
        return sum(weight(value, depth - 1) for value in body.values()) if depth else 0
    if isinstance(body, list) and depth:
        return sum(weight(value, depth - 1) for value in body)
    return 0


def inlined(body: Any, folders: Folders, depth: int = _DEPTH) -> Any:
    """The body with every blob's content in the place of its reference. Reads the disk: call it in a thread."""
    if isinstance(body, dict):
        if BLOB in body:
            return orjson.loads((folders.blobs / body[BLOB]).read_bytes())
        return {key: inlined(value, folders, depth - 1) for key, value in body.items()} if depth else body
    if isinstance(body, list) and depth:
        return [inlined(value, folders, depth - 1) for value in body]
    return body
