"""Tiny random fish-speech models of both families, in the published layout: file names, keys, config, tokenizer.

The vocabulary is the bytes, two merges and the family's special tokens, semantic ones last, so that whatever a random
model says the published code can go on from. Of `make_fish` alone, `codec.pth` and the firefly file stand empty: the
codecs have tests, and checkpoints, of their own.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.checkpoints_codec import fixture, make_dac, make_firefly

SIZES: dict[str, dict[str, Any]] = {
    "1.5": {"codebook_size": 1024, "num_codebooks": 8, "n_local_heads": 2, "head_dim": 8, "tie_word_embeddings": False},
    "s1": {
        **{"codebook_size": 1040, "num_codebooks": 10, "n_local_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
        **{"attention_qk_norm": True, "scale_codebook_embeddings": True, "fast_attention_qk_norm": False},
        **{
            "fast_dim": 24,
            "fast_n_head": 2,
            "fast_n_local_heads": 1,
            "fast_head_dim": 12,
            "fast_intermediate_size": 40,
        },
    },
}
"""By family. S1's codebook is longer than the 1024 codes that are drawn from, as the published one is."""

CODECS = {"1.5": "firefly-gan-vq-fsq-8x1024-21hz-generator.pth", "s1": "codec.pth"}

_MERGES = (b"he", b"ll")
_CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
_MODALITIES = ("<|text|>", "<|voice|>", "<|interleave|>")
_SPECIAL = {
    "1.5": (*_CONTROL, *(f"<|placeholder:{index}|>" for index in range(4)), *_MODALITIES),
    "s1": (*_CONTROL, "<|phoneme_start|>", "<|phoneme_end|>", *_MODALITIES, "<|audio_start|>", "<|speaker:0|>"),
}


def make_fish(folder: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """family: a key of SIZES. changes: to config.json."""
    import torch

    from workers.fish.dual_ar import DualAR, DualARConfig

    folder.mkdir(parents=True, exist_ok=True)
    special = _write_tokenizer(folder, family, SIZES[family]["codebook_size"])
    config = {
        **{"model_type": "dual_ar", "vocab_size": max(special.values()) + 1, "n_layer": 2, "n_head": 4, "dim": 32},
        **{"intermediate_size": 48, "n_fast_layer": 2, "max_seq_len": 256, "rope_base": 1e6, "norm_eps": 1e-6},
        **{"dropout": 0.1, "initializer_range": 0.02, "use_gradient_checkpointing": True},
        **SIZES[family],
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    semantic = (special["<|semantic:0|>"], max(special.values()))
    torch.save(randomise(DualAR(DualARConfig.of(config), semantic)).state_dict(), folder / "model.pth")
    (folder / CODECS[family]).touch()
    return folder


def make_speaker(folder: Path, family: str = "1.5") -> Path:
    """A whole model, its tiny codec included: what it says is noise, and goes on for as long as it may."""
    make_fish(folder, family, max_seq_len=4096)
    if family == "1.5":
        figures = fixture("firefly.json")
        make_firefly(folder, figures["shapes"], figures["seed"])
    else:
        make_dac(folder, seed=0)
    return folder


def randomise(model: Any) -> Any:
    """Wide enough that no two tokens are equally likely, and norms that are not all ones."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 1.5 / parameter.size(-1) ** 0.5 if parameter.ndim > 1 else 0.1)
    return model


def _write_tokenizer(folder: Path, family: str, codebook_size: int) -> dict[str, int]:
    ranks = [*(bytes([byte]) for byte in range(256)), *_MERGES]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)]
    (folder / "tokenizer.tiktoken").write_text("".join(lines))
    tokens = (*_SPECIAL[family], *(f"<|semantic:{code}|>" for code in range(codebook_size)))
    special = {token: len(ranks) + index for index, token in enumerate(tokens)}
    (folder / "special_tokens.json").write_text(json.dumps(special, indent=2))
    return special
