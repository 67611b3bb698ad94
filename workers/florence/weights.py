"""Florence-2's weights in transformers' own layout, whatever name or folder the operator gave.

    microsoft/Florence-2-X ─▶ florence-community/Florence-2-X: the same weights in that layout
    any other hub id or folder ─▶ as it is, or converted once and kept where its layout is the one of Microsoft's code

That code comes with Microsoft's repositories and is never run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contract.errors import ModelUnavailable
from contract.folders import Folders
from workers.runtime.hub import Found, Layout, Say, Wanted, convert, find

DEFAULT = "microsoft/Florence-2-base"
SETTING = "AI_FLORENCE_MODEL"

NATIVE = {
    f"microsoft/Florence-2-{size}": f"florence-community/Florence-2-{size}"
    for size in ("base", "base-ft", "large", "large-ft")
}
"""Microsoft's checkpoints → the same weights for transformers."""

_BESIDE = (
    *("tokenizer*.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    *("preprocessor_config.json", "processor_config.json", "generation_config.json"),
)
_LAYOUTS = tuple(
    Layout("transformers", ("config.json", "tokenizer.json", weights), (*shards, *_BESIDE))
    for weights, shards in (
        ("model.safetensors", ()),
        ("model.safetensors.index.json", ("model-*.safetensors",)),
        ("pytorch_model.bin", ()),
    )
)


def locate(name: str, folders: Folders, say: Say = None) -> Path:
    """A folder that transformers reads, fetched or converted if need be.

    name: a hub id or a local folder. Raises: ModelUnavailable.
    """
    found = find(wanted(name), folders, say)
    config = _config(found)
    if "dim_embed" not in config.get("vision_config", {}):
        return found.path
    return convert(found, folders, _write, _unusable, say)


def wanted(name: str) -> Wanted:
    return Wanted(name, "florence", SETTING, (NATIVE[name], name) if name in NATIVE else (name,), _LAYOUTS)


def _config(found: Found) -> dict[str, Any]:
    try:
        config = json.loads((found.path / "config.json").read_bytes())
    except ValueError as exc:
        raise _unusable() from exc
    if not isinstance(config, dict) or config.get("model_type") != "florence2":
        raise _unusable()
    return config


def _write(source: Path, folder: Path) -> None:
    from workers.florence.conversion import write_native

    write_native(source, folder)


def _unusable() -> ModelUnavailable:
    return ModelUnavailable(
        f"The checkpoint that {SETTING} names could not be read: it is damaged, incomplete or not a Florence-2 model. "
        f"Set {SETTING} to another one."
    )
