"""Florence-2's text decoder, one token at a time: transformers' weights over keys and values that lie still.

    encoder's output ─▶ listen() ─▶ source keys and values of every layer, once
    last tokens ─▶ logits(): writes their keys and values at `at`, looks at those that `seen` allows

Every tensor keeps its place and shape, so that `logits` can be recorded as a CUDA graph. A beam's past is not moved
when beams are exchanged: each looks into the rows of those that it comes from.

In shapes, b are pictures, k beams, n positions of the answer, s positions of the source, h heads, d numbers of each,
and w = h * d is the model's width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """What the decoder's attention looks at.

    keys, values: (layers, b, h, n, k, d), of the beams' tokens. source_keys, source_values: (layers, b, h, s, d).
    source_mask: (b, 1, 1, s), 0 where there is something and -inf elsewhere.
    """

    keys: Tensor
    values: Tensor
    source_keys: Tensor
    source_values: Tensor
    source_mask: Tensor

    def part(self, pictures: int, source: int) -> Memory:
        """Views of the first pictures and of the first positions of their sources."""
        return Memory(
            self.keys[:, :pictures],
            self.values[:, :pictures],
            self.source_keys[:, :pictures, :, :source],
            self.source_values[:, :pictures, :, :source],
            self.source_mask[:pictures, ..., :source],
        )

    def clear(self) -> None:
        """What a mask hides must still be finite, and what an earlier answer left need not be."""
        self.keys.zero_()
        self.values.zero_()

    def take(self, other: Memory) -> None:
        """Everything of a memory for shorter answers to the same pictures."""
        length = other.keys.size(3)
        self.clear()
        self.keys[:, :, :, :length].copy_(other.keys)
        self.values[:, :, :, :length].copy_(other.values)
        self.source_keys.copy_(other.source_keys)
        self.source_values.copy_(other.source_values)
        self.source_mask.copy_(other.source_mask)


class Decoder:
    """The decoder of a Florence2ForConditionalGeneration."""

    def __init__(self, model: Any) -> None:
        self._decoder, self._head = model.model.language_model.decoder, model.lm_head
        self._layers = [_Layer(layer) for layer in self._decoder.layers]
        self.vocabulary: int = model.lm_head.out_features

    def memory(self, pictures: int, beams: int, length: int, source: int) -> Memory:
        weight = self._head.weight
        attention = self._decoder.layers[0].self_attn
        layers, heads, width = len(self._layers), attention.num_heads, attention.head_dim
        own = (layers, pictures, heads, length, beams, width)
        theirs = (layers, pictures, heads, source, width)
        keys, values, source_keys, source_values = (weight.new_zeros(shape) for shape in (own, own, theirs, theirs))
        return Memory(keys, values, source_keys, source_values, weight.new_zeros(pictures, 1, 1, source))

    def listen(self, encoded: Tensor, there: Tensor, memory: Memory) -> None:
        """encoded: (b, s', w), s' at most s. there: bool, (b, s'), False where it is only filled up."""
        missing = memory.source_mask.size(-1) - encoded.size(1)
        encoded = functional.pad(encoded, (0, 0, 0, missing))
        memory.source_mask.zero_().masked_fill_(~functional.pad(there, (0, missing))[:, None, None], -torch.inf)
        for index, layer in enumerate(self._layers):
            memory.source_keys[index].copy_(_apart(layer.across.k_proj(encoded), layer.heads))
            memory.source_values[index].copy_(_apart(layer.across.v_proj(encoded), layer.heads))

    def logits(self, tokens: Tensor, at: Tensor, seen: Tensor, memory: Memory) -> Tensor:
        """What comes next: (b, k, vocabulary).

        tokens: (b, k), the last of each beam. at: (1,), their position. seen: bool, (b, k, n, k): whether a beam comes
        from the token that stands at a position in a row.
        """
        positions = self._decoder.embed_positions
        position = functional.embedding(at + positions.offset, positions.weight)
        hidden = self._decoder.layernorm_embedding(self._decoder.embed_tokens(tokens) + position)
        mask = torch.zeros_like(seen, dtype=hidden.dtype).masked_fill_(~seen, -torch.inf).flatten(2)[:, None]
        for index, layer in enumerate(self._layers):
            hidden = layer(hidden, at, mask, memory, index)
        logits: Tensor = self._head(hidden)
        return logits


class _Layer:
    """One layer of BART's decoder, without what only training needs."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._own, self.across = layer.self_attn, layer.encoder_attn
        self.heads: int = layer.self_attn.num_heads
        projections = (self._own.q_proj, self._own.k_proj, self._own.v_proj)
        self._weight = torch.cat([projection.weight for projection in projections])
        self._bias = torch.cat([projection.bias for projection in projections])

    def __call__(self, hidden: Tensor, at: Tensor, mask: Tensor, memory: Memory, index: int) -> Tensor:
        layer = self._layer
        hidden = layer.self_attn_layer_norm(hidden + self._remember(hidden, at, mask, memory, index))
        hidden = layer.encoder_attn_layer_norm(hidden + self._look(hidden, memory, index))
        more = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
        ended: Tensor = layer.final_layer_norm(hidden + more)
        return ended

    def _remember(self, hidden: Tensor, at: Tensor, mask: Tensor, memory: Memory, index: int) -> Tensor:
        query, key, value = functional.linear(hidden, self._weight, self._bias).chunk(3, dim=-1)
        keys, values = memory.keys[index], memory.values[index]
        keys.index_copy_(2, at, _apart(key, self.heads)[:, :, None])
        values.index_copy_(2, at, _apart(value, self.heads)[:, :, None])
        return self._attend(self._own, query, keys.flatten(2, 3), values.flatten(2, 3), mask)

    def _look(self, hidden: Tensor, memory: Memory, index: int) -> Tensor:
        query = self.across.q_proj(hidden)
        mask = memory.source_mask.expand(-1, -1, hidden.size(1), -1)
        return self._attend(self.across, query, memory.source_keys[index], memory.source_values[index], mask)

    def _attend(self, module: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        query = _apart(query, self.heads)
        found = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=module.scaling)
        together: Tensor = module.out_proj(found.transpose(1, 2).flatten(2))
        return together


def _apart(states: Tensor, heads: int) -> Tensor:
    """(b, x, w) → (b, h, x, d)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)
