"""fish-speech 1.5 with random weights, in its published files and sizes, that speaks for as long as it may.

Token embeddings share a direction, along which the rows of the semantic tokens point and the others against it. So a
semantic token is always drawn, as from trained weights, and never the end: every request has the frames it asked for.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.checkpoints_codec import fixture, make_firefly

_CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|text|>", "<|voice|>")
_DEVIATION, _FAINT = 0.02, 0.0005
"""Of random weights, as the published configuration has it for training; and of those that end a residual branch, for
the shared direction has to reach the output."""
_SHARED = 0.1
"""What every number of an embedding has of the shared direction."""
_LOGIT = 20.0
"""About how likely a semantic token is made, and how unlikely the others; bfloat16 still tells its logits apart."""

PUBLISHED: dict[str, Any] = fixture("fish_sizes.json")["1.5"]["config"]
MICRO: dict[str, Any] = {
    **PUBLISHED,
    **{"vocab_size": 2048, "n_layer": 2, "n_fast_layer": 2, "dim": 64, "n_head": 4, "head_dim": 16},
    "intermediate_size": 128,
}


def make_fish(folder: Path, config: dict[str, Any], codec: str) -> Path:
    """codec: the fixture that holds the shapes of the codec's weights."""
    import torch

    from workers.fish.dual_ar import DualAR, DualARConfig

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    first = _write_tokenizer(folder, config)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = DualAR(DualARConfig.of(config), (first, config["vocab_size"] - 1))
    weights = {name: _weight(name, value.shape) for name, value in model.state_dict().items()}
    weights["embeddings.weight"] += _SHARED
    weights["output.weight"][:first] -= _LOGIT / config["dim"]
    weights["output.weight"][first:] += _LOGIT / config["dim"]
    torch.save(weights, folder / "model.pth")
    return make_firefly(folder, fixture(codec)["shapes"], seed=4)


def _weight(name: str, shape: Any) -> Any:
    """bfloat16, as published."""
    import torch

    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    deviation = _FAINT if name.endswith((".wo.weight", ".w2.weight")) else _DEVIATION
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, deviation)


def _write_tokenizer(folder: Path, config: dict[str, Any]) -> int:
    """A token for each byte, others that no text holds, and the special ones, semantic tokens last, of which the first
    is returned. The package numbers the special ones by their order, after all others."""
    first = int(config["vocab_size"]) - int(config["codebook_size"])
    texts = [bytes([byte]) for byte in range(256)]
    texts += [b"\xff" + number.to_bytes(3) for number in range(first - len(_CONTROL) - len(texts))]
    lines = [f"{base64.b64encode(text).decode()} {rank}\n" for rank, text in enumerate(texts)]
    (folder / "tokenizer.tiktoken").write_text("".join(lines))
    special = (*_CONTROL, *(f"<|semantic:{code}|>" for code in range(config["codebook_size"])))
    numbered = {token: len(texts) + number for number, token in enumerate(special)}
    (folder / "special_tokens.json").write_text(json.dumps(numbered))
    return first
