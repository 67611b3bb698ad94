"""Convolutions that look only back, and what they remember between two pieces of one stream.

A causal layer's output depends on a few inputs before it. Decoding a stream piece by piece therefore equals decoding it
whole when each layer keeps the end of its last input, instead of the zeros that stand before the first:

    with memory.current():
        first = decoder(frames[..., :12])
        second = decoder(frames[..., 12:])   # goes on where the first ended

That costs no second decoding of old frames, and a stream's memory is of fixed size: for each layer, its receptive field
less one step. Without a current memory every call starts from silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_CURRENT: ContextVar[Memory | None] = ContextVar("memory", default=None)


class Memory:
    """The ends of the last inputs of a decoder's layers. The first dimension of each tensor is the streams."""

    def __init__(self, pasts: dict[nn.Module, Tensor] | None = None) -> None:
        self.pasts = pasts or {}

    @contextmanager
    def current(self) -> Iterator[None]:
        """Layers called in here go on from this memory, and write it."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @classmethod
    def stacked(cls, memories: Sequence[Memory]) -> Memory:
        """Of several streams as rows. One that has heard nothing yet remembers zeros."""
        if len(memories) == 1:
            return cls(dict(memories[0].pasts))
        samples = {layer: past for memory in memories for layer, past in memory.pasts.items()}
        return cls(
            {
                layer: torch.cat([memory.pasts.get(layer, torch.zeros_like(past)) for memory in memories])
                for layer, past in samples.items()
            }
        )

    def row(self, index: int) -> Memory:
        return Memory({layer: past[index : index + 1] for layer, past in self.pasts.items()})

    def nbytes(self) -> int:
        return sum(past.nbytes for past in self.pasts.values())

    def write(self, layer: nn.Module, past: Tensor) -> None:
        self.pasts[layer] = past.clone()  # a view would keep the whole input alive


class HeldMemory(Memory):
    """One whose tensors stay where they are and are written in place."""

    def write(self, layer: nn.Module, past: Tensor) -> None:
        self.pasts[layer].copy_(past)


def recalled(layer: nn.Module, shape: Sequence[int], like: Tensor) -> Tensor:
    """What the layer remembers: zeros of that shape at the start of a stream."""
    memory = _CURRENT.get()
    past = memory.pasts.get(layer) if memory else None
    return like.new_zeros(tuple(shape)) if past is None else past


def remember(layer: nn.Module, past: Tensor) -> None:
    """After the last use of what was recalled, which may be written over."""
    memory = _CURRENT.get()
    if memory is not None:
        memory.write(layer, past)


class CausalConv(nn.Module):
    """(rows, channels, n) → (rows, channels_out, ceil(n / stride)).

    Zeros before the start; where the stride does not divide n, also after the end, so that no input is left out.
    Source: fish-speech v1.5.0 (7902e40), fish_speech/models/vqgan/modules/firefly.py, FishConvNet.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        """conv: without padding."""
        super().__init__()
        self.conv = conv
        self.stride = conv.stride[0]
        self.reach = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - self.stride

    def forward(self, x: Tensor) -> Tensor:
        if missing := -x.shape[-1] % self.stride:
            x = pad(x, (0, missing))
        if self.reach:
            x = torch.cat((recalled(self, (*x.shape[:-1], self.reach), x), x), dim=-1)
            remember(self, x[..., -self.reach :])
        return self.conv(x)


class CausalTransposedConv(nn.Module):
    """(rows, channels, n) → (rows, channels_out, n * stride).

    Source: as above, FishTransConvNet: what reaches beyond the last input's own outputs is cut off, here to be
    made again with the next piece.
    """

    def __init__(self, conv: nn.ConvTranspose1d) -> None:
        """conv: without padding, its kernel at least as wide as its stride."""
        super().__init__()
        self.conv = conv
        self.stride = conv.stride[0]
        self.reach = -(-conv.kernel_size[0] // self.stride) - 1

    def forward(self, x: Tensor) -> Tensor:
        if self.reach:
            x = torch.cat((recalled(self, (*x.shape[:-1], self.reach), x), x), dim=-1)
            remember(self, x[..., -self.reach :])
        return self.conv(x)[..., self.reach * self.stride : x.shape[-1] * self.stride]
