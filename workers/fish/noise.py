"""Noise that is a function of its place: of the seed, the frame, the codebook and the choice.

    seed ─▶ key ┐
                ├─▶ key + GOLDEN * counter ─▶ mixed ─▶ 23 bits ─▶ uniform ─▶ exponential
    place ──────┘

This is SplitMix64 read at any place instead of in order: no two places of a seed share a number, and nothing is kept
between two frames. So what a sequence says depends on its seed alone, in whatever company and on whatever device it is
said; only the last bits of the logarithm are the device's. All of it are a dozen operations on tensors, for all
codebooks and rows at once, which a CUDA graph can hold.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_FRAME_BITS, _BOOK_BITS = 32, 24
"""The counter: the frame's number above, then the codebook's, then the choice's."""


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def key_of(seed: int) -> int:
    """Where a seed's numbers begin, an int64: neighbouring seeds begin far from each other."""
    return int(_mixed(torch.tensor(seed) ^ _GOLDEN))


def places(sizes: Sequence[int]) -> Tensor:
    """Of a frame's choices, codebook after codebook, each of so many. int64, (sum(sizes),)."""
    counters = [torch.arange(size) + (book << _BOOK_BITS) for book, size in enumerate(sizes)]
    return torch.cat(counters) * _GOLDEN


def exponential(keys: Tensor, frames: Tensor, places: Tensor) -> Tensor:
    """keys, frames: int64, (B,), of `key_of` and below 2^31. float32, (B, N), of mean 1, from 2^-24 to 17."""
    begins = keys + (frames << _FRAME_BITS) * _GOLDEN
    bits = (_mixed(begins[:, None] + places) >> 41) & 0x7FFFFF
    uniform = (bits.float() + 0.5) * 2**-23  # never 0 nor 1, and exact
    return -_log1p(-uniform)


def _log1p(x: Tensor) -> Tensor:
    """On the CPU by numpy: so few logarithms are not worth the waking of torch's threads, which takes milliseconds."""
    return torch.from_numpy(np.log1p(x.numpy())) if x.is_cpu else torch.log1p(x)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros coming in, which torch's shift of signed numbers does not do."""
    return (x >> by) & (2 ** (64 - by) - 1)
