"""fish-speech's DualAR model: a slow transformer over positions and, within each, a fast one over the codebooks.

    tokens (B, 1 + C, S) ─▶ slow ─▶ logits of the semantic token, hidden state ─┐
                                                  semantic token's code ────────┴▶ fast ─▶ logits of codebooks 1 … C - 1

Row 0 of the tokens are vocabulary ids, rows 1 to C the codes of the C codebooks; codes count only where row 0 is a
semantic token. The weights are the published ones under their published names; the forward pass is ours, because that
of the package writes its cache at one position for all rows of a batch. Logits equal the package's
(tests/test_dual_ar.py).

Source: fish_speech/models/text2semantic/llama.py of fishaudio/fish-speech at v1.5.1 (58046ea) and of PyPI's 0.1.0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.fish.attention import Block, BlockShape, rotation_table
from workers.fish.cache import KeyValueCache, Place


@dataclasses.dataclass(frozen=True, slots=True)
class DualARConfig:
    """What both families' config.json say that the forward pass depends on; defaults are the published code's."""

    vocab_size: int
    n_layer: int
    n_head: int
    dim: int
    n_local_heads: int = -1
    head_dim: int | None = 64
    intermediate_size: int | None = None
    rope_base: float = 10000
    norm_eps: float = 1e-5
    max_seq_len: int = 2048
    tie_word_embeddings: bool = True
    attention_qkv_bias: bool = False
    attention_o_bias: bool = False
    attention_qk_norm: bool = False
    codebook_size: int = 160
    num_codebooks: int = 4
    scale_codebook_embeddings: bool = False
    n_fast_layer: int = 4
    fast_dim: int | None = None
    fast_n_head: int | None = None
    fast_n_local_heads: int | None = None
    fast_head_dim: int | None = None
    fast_intermediate_size: int | None = None
    fast_attention_qkv_bias: bool | None = None
    fast_attention_qk_norm: bool | None = None
    fast_attention_o_bias: bool | None = None

    @classmethod
    def of(cls, data: dict[str, Any]) -> DualARConfig:
        """From config.json. Keys that only training knows are left out. Raises: TypeError for what is missing."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})

    @property
    def slow(self) -> BlockShape:
        return BlockShape(
            dim=self.dim,
            n_head=self.n_head,
            n_local_heads=self.n_head if self.n_local_heads == -1 else self.n_local_heads,
            head_dim=self.head_dim or self.dim // self.n_head,
            intermediate_size=self.intermediate_size or _multiple(int(2 * 4 * self.dim / 3), 256),
            norm_eps=self.norm_eps,
            qkv_bias=self.attention_qkv_bias,
            o_bias=self.attention_o_bias,
            qk_norm=self.attention_qk_norm,
        )

    @property
    def fast(self) -> BlockShape:
        """The fast transformer's sizes; those that the configuration leaves out are the slow one's."""
        slow = self.slow
        return dataclasses.replace(
            slow,
            dim=self.fast_dim or slow.dim,
            n_head=self.fast_n_head or slow.n_head,
            n_local_heads=self.fast_n_local_heads or slow.n_local_heads,
            head_dim=self.fast_head_dim or slow.head_dim,
            intermediate_size=self.fast_intermediate_size or slow.intermediate_size,
            qkv_bias=_or(self.fast_attention_qkv_bias, slow.qkv_bias),
            o_bias=_or(self.fast_attention_o_bias, slow.o_bias),
            qk_norm=_or(self.fast_attention_qk_norm, slow.qk_norm),
        )


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _multiple(value: int, of: int) -> int:
    return -(-value // of) * of


class DualAR(nn.Module):
    """semantic: the first and the last id of the semantic tokens, inclusive."""

    def __init__(self, config: DualARConfig, semantic: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.semantic = config, semantic
        slow, fast = config.slow, config.fast
        self.embeddings = nn.Embedding(config.vocab_size, slow.dim)
        self.codebook_embeddings = nn.Embedding(config.codebook_size * config.num_codebooks, slow.dim)
        self.layers = nn.ModuleList(Block(slow) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(slow.dim, config.norm_eps)
        if not config.tie_word_embeddings:
            self.output = nn.Linear(slow.dim, config.vocab_size, bias=False)
        self.fast_project_in = nn.Linear(slow.dim, fast.dim) if fast.dim != slow.dim else nn.Identity()
        self.fast_embeddings = nn.Embedding(config.codebook_size, fast.dim)
        self.fast_layers = nn.ModuleList(Block(fast) for _ in range(config.n_fast_layer))
        self.fast_norm = nn.RMSNorm(fast.dim, config.norm_eps)
        self.fast_output = nn.Linear(fast.dim, config.codebook_size, bias=False)
        self.turns: Tensor
        self.fast_turns: Tensor
        self.books: Tensor
        self.make_tables(self.embeddings.weight.device)

    def make_tables(self, device: torch.device) -> None:
        """The rotation tables and the codebooks' places among the embeddings, which no checkpoint holds.

        Of their own types whatever the weights are.
        """
        config = self.config
        self.turns = rotation_table(config.max_seq_len, config.slow.head_dim, config.rope_base, device)
        self.fast_turns = rotation_table(config.num_codebooks, config.fast.head_dim, config.rope_base, device)
        self.books = torch.arange(config.num_codebooks, device=device).unsqueeze(1) * config.codebook_size

    def merge(self) -> None:
        """Make the weights fewer and larger, for good; they lose their published names."""
        for block in (*self.layers, *self.fast_layers):
            block.feed_forward.merge()

    @property
    def head(self) -> Tensor:
        """The output layer, (vocab_size, dim)."""
        return (self.embeddings if self.config.tie_word_embeddings else self.output).weight

    def caches(self, rows: int, length: int) -> tuple[KeyValueCache, KeyValueCache]:
        """For the slow transformer, of so many positions, and for the fast one."""
        weight, config = self.embeddings.weight, self.config
        return (
            _cache(config.slow, config.n_layer, rows, length, weight),
            _cache(config.fast, config.n_fast_layer, rows, config.num_codebooks, weight),
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, 1 + C, S) → (B, S, dim)."""
        config = self.config
        codes = self.codebook_embeddings(tokens[:, 1:] + self.books).sum(dim=1)
        spoken = ((tokens[:, 0] >= self.semantic[0]) & (tokens[:, 0] <= self.semantic[1])).unsqueeze(-1)
        words = self.embeddings(tokens[:, 0])
        together = words + codes
        if config.scale_codebook_embeddings:
            together = together / math.sqrt(config.num_codebooks + 1)
        return torch.where(spoken, together, words)

    def read(self, tokens: Tensor, cache: KeyValueCache, place: Place) -> Tensor:
        """The slow transformer without its output layer. tokens: int64, (B, 1 + C, S) → (B, S, dim)."""
        x, turns = self.embed(tokens), place.of(self.turns)
        for index, layer in enumerate(self.layers):
            x = layer(x, turns, cache, index, place)
        return x

    def said(self, x: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, dim), of `read`. Logits of the tokens whose rows the head has, and the hidden state, (B, fast dim)."""
        return functional.linear(self.norm(x), head), self.fast_project_in(x)

    def fast_forward(self, x: Tensor, cache: KeyValueCache, place: Place) -> Tensor:
        """x: (B, S, fast dim), a hidden state or codes' embeddings. Logits of the last, (B, codebook_size)."""
        turns = place.of(self.fast_turns)
        for index, layer in enumerate(self.fast_layers):
            x = layer(x, turns, cache, index, place)
        return self.fast_output(self.fast_norm(x[:, -1]))


def _cache(shape: BlockShape, layers: int, rows: int, length: int, like: Tensor) -> KeyValueCache:
    return KeyValueCache((layers, rows, shape.n_local_heads, length, shape.head_dim), like.device, like.dtype)
