"""The layers that both of fish-speech's transformers are made of, over a cache that the caller lays out.

Names and order of the parameters are the published checkpoints'. Shapes: B rows (sequences), S new positions, H query
heads, K key-value heads (H = G * K), D the width of a head, L cached positions.

Source: fish_speech/models/text2semantic/llama.py of fishaudio/fish-speech at v1.5.1 (58046ea) and of PyPI's 0.1.0.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.fish.cache import KeyValueCache, Place


@dataclasses.dataclass(frozen=True, slots=True)
class BlockShape:
    """The sizes of one block; both transformers have their own."""

    dim: int
    n_head: int
    n_local_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool


def rotation_table(length: int, head_dim: int, base: float, device: torch.device) -> Tensor:
    """complex64, (length, head_dim / 2): a turn for each position and pair of channels.

    Rounded to bfloat16, as the published models were trained, and computed on the CPU, so that every device rounds the
    same numbers.
    """
    origin = torch.device("meta" if device.type == "meta" else "cpu")
    rates = 1.0 / base ** (torch.arange(0, head_dim, 2, device=origin).float() / head_dim)
    angles = torch.outer(torch.arange(length, device=origin), rates)
    table = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    return torch.view_as_complex(table.to(torch.bfloat16).float()).to(device)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """x: (B, S, heads, D); turns: (B or 1, S, D / 2), of the table. Neighbouring channels are the pairs."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.unsqueeze(2)).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Grouped-query attention of new positions to themselves and to those in the cache."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        heads = shape.n_head + 2 * shape.n_local_heads
        self.wqkv = nn.Linear(shape.dim, heads * shape.head_dim, bias=shape.qkv_bias)
        self.wo = nn.Linear(shape.n_head * shape.head_dim, shape.dim, bias=shape.o_bias)
        if shape.qk_norm:
            self.q_norm = nn.RMSNorm(shape.head_dim, shape.norm_eps)
            self.k_norm = nn.RMSNorm(shape.head_dim, shape.norm_eps)

    def forward(self, x: Tensor, turns: Tensor, cache: KeyValueCache, layer: int, place: Place) -> Tensor:
        """x: (B, S, dim) → the same shape."""
        q, k, v = (heads.transpose(1, 2) for heads in self._heads(x, turns))
        cache.write(layer, place, k, v)
        seen = _from_start(q, k, v) if place.from_start else _after_cached(q, *cache.read(layer, place), place.mask)
        return self.wo(seen.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, turns: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (B, S, H or K, D); queries and keys are turned as one."""
        queries, keys = self.shape.n_head, self.shape.n_local_heads
        turning, v = self.wqkv(x).unflatten(-1, (-1, self.shape.head_dim)).split([queries + keys, keys], dim=2)
        if self.shape.qk_norm:
            q, k = turning.split([queries, keys], dim=2)
            turning = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        return (*rotate(turning, turns).split([queries, keys], dim=2), v)


def _from_start(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Nothing is cached before these positions: each sees itself and those before it. (B, H, S, D) → the same."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


def _after_cached(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q: (B, H, S, D), k and v: (B, K, L, D), mask: (B, 1, S, L), added to the scores. (B, H, S, D).

    Where there is one new position, the heads of a group stand where positions would, so that the cache is read as it
    lies, not repeated for each head.
    """
    if q.size(2) > 1:
        many = q.size(1) != k.size(1)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=many)
    grouped = q.reshape(q.size(0), k.size(1), -1, q.size(3))
    return functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(q.shape)


class FeedForward(nn.Module):
    """SwiGLU. The published weights have the gate (w1) and what it lets through (w3) apart."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.dim, shape.intermediate_size, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.intermediate_size, bias=False)
        self.w2 = nn.Linear(shape.intermediate_size, shape.dim, bias=False)
        self.merged = False

    def merge(self) -> None:
        """Have w1 compute both, for good: a product of a few rows costs its start more than its numbers."""
        self.w1.weight = nn.Parameter(torch.cat([self.w1.weight, self.w3.weight]), requires_grad=False)
        self.merged = True
        del self.w3

    def forward(self, x: Tensor) -> Tensor:
        gate, through = self.w1(x).chunk(2, dim=-1) if self.merged else (self.w1(x), self.w3(x))
        return self.w2(functional.silu(gate) * through)


class Block(nn.Module):
    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.feed_forward = FeedForward(shape)
        self.ffn_norm = nn.RMSNorm(shape.dim, shape.norm_eps)
        self.attention_norm = nn.RMSNorm(shape.dim, shape.norm_eps)

    def forward(self, x: Tensor, turns: Tensor, cache: KeyValueCache, layer: int, place: Place) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turns, cache, layer, place)
        return x + self.feed_forward(self.ffn_norm(x))
