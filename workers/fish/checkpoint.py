"""The published checkpoints, unchanged: which files, whose family, loaded and checked.

    a folder of one family's layout (`published`) ─▶ load(): the model and its tokenizer

Weights are read without running code that a file may hold (`weights_only`), and mapped, not copied.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor

from contract.errors import ModelUnavailable
from workers.fish.dual_ar import DualAR, DualARConfig
from workers.fish.family import FAMILIES, Family
from workers.fish.params import SETTING
from workers.fish.prompt import Grid, Spoken, Tokenizer
from workers.fish.published import require_package
from workers.runtime.hub import Found

log = structlog.get_logger()

_END = "<|im_end|>"


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, with what is needed to ask it and to understand it.

    end_id: the token that ends a sequence; choices: int64, (n,), on the CPU, the tokens that can be said, the end and
    the semantic ones; head: (n, dim), their rows of the output layer.
    """

    model: DualAR
    tokenizer: Tokenizer
    family: Family
    end_id: int
    choices: Tensor
    head: Tensor

    def prompt(self, text: str, spoken: Sequence[Spoken] = ()) -> Tensor:
        """The token grid, int64, (1 + C, T), on the CPU. Raises: InvalidInput."""
        return self.grid(text, spoken).joined()

    def grid(self, text: str, spoken: Sequence[Spoken]) -> Grid:
        """The prompt, and where its text begins. Raises: InvalidInput."""
        config = self.model.config
        grid = Grid(self.tokenizer, config.num_codebooks, config.codebook_size)
        self.family.prompt(grid, text, spoken)
        return grid


def family_of(found: Found) -> Family:
    return next(family for family in FAMILIES if family.layout == found.layout)


def load(found: Found, device: torch.device, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Raises: ModelUnavailable, without the package or where the files do not make a model."""
    tokenizer = read_tokenizer(found.path)
    config = read_config(found.path)
    semantic = (tokenizer.semantic_begin_id, tokenizer.semantic_end_id)
    if semantic[1] >= config.vocab_size or semantic[1] - semantic[0] >= config.codebook_size:
        raise _wrong("its special tokens are not those that the model was made for")
    with torch.device("meta"):
        model = DualAR(config, semantic)
    model.load_state_dict(_checked(_read_weights(found.path), model), assign=True)
    end_id = tokenizer.get_token_id(_END)
    choices = torch.tensor([end_id, *range(semantic[0], semantic[1] + 1)])
    head = model.head[choices].to(device=device, dtype=dtype)
    if not config.tie_word_embeddings:
        del model.output  # 102 000 words that nobody can say
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    model.merge()
    model.make_tables(device)
    return Checkpoint(model, tokenizer, family_of(found), end_id, choices, head.detach())


def read_config(folder: Path) -> DualARConfig:
    """Raises: ModelUnavailable."""
    try:
        data = json.loads((folder / "config.json").read_bytes())
        if data.get("model_type") != "dual_ar":
            raise _wrong("its config.json describes another kind of model")
        return DualARConfig.of(data)
    except (ValueError, TypeError, AttributeError) as exc:
        raise _wrong("its config.json is damaged or incomplete") from exc


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises: ModelUnavailable."""
    require_package()
    from fish_speech.tokenizer import FishTokenizer

    try:
        tokenizer: Tokenizer = FishTokenizer.from_pretrained(str(folder))
        tokenizer.get_token_id(_END)
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise _wrong("its tokenizer.tiktoken or special_tokens.json is damaged or incomplete") from exc
    return tokenizer


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The published forms of one state dict: as it is, or inside a trainer's checkpoint; wqkv whole or in three."""
    try:
        weights: Any = torch.load(folder / "model.pth", map_location="cpu", mmap=True, weights_only=True)
        weights = weights.get("state_dict", weights)
        named: dict[str, Tensor] = {name.removeprefix("model."): value for name, value in weights.items()}
    except (RuntimeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as exc:
        raise _wrong("its model.pth is damaged or incomplete") from exc
    for query in [name for name in named if name.endswith("wq.weight")]:
        stem = query.removesuffix("wq.weight")
        parts = [named.pop(f"{stem}{part}.weight", None) for part in ("wq", "wk", "wv")]
        named[f"{stem}wqkv.weight"] = torch.cat([part for part in parts if part is not None])
    return named


def _checked(weights: dict[str, Tensor], model: DualAR) -> dict[str, Tensor]:
    """The model's own tensors, all there and of its shapes. Raises: ModelUnavailable."""
    own = model.state_dict()
    for name, value in own.items():
        if name not in weights or weights[name].shape != value.shape:
            log.error("speech_weight_wrong", name=name, missing=name not in weights)
            raise _wrong("its model.pth does not fit its config.json")
    if extra := sorted(set(weights) - set(own)):
        log.warning("speech_weights_unused", names=extra[:8], count=len(extra))
    return {name: weights[name] for name in own}


def _wrong(reason: str) -> ModelUnavailable:
    return ModelUnavailable(f"The speech model that {SETTING} names cannot be used: {reason}. Fetch it again.")
