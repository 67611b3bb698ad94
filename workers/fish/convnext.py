"""The ConvNeXt blocks and encoder of the firefly codec.

Source: "A ConvNet for the 2020s" (arXiv:2201.03545), in one dimension and causal; the names of the parameters are those
of fish-speech v1.5.0 (7902e40), fish_speech/models/vqgan/modules/firefly.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from workers.fish.causal import CausalConv

_EPSILON = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (rows, channels, n)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class ConvNeXtBlock(nn.Module):
    """(rows, channels, n) → the same: depthwise convolution, then a perceptron of each step, added to the input."""

    def __init__(self, channels: int, kernel: int = 7, widening: int = 4) -> None:
        super().__init__()
        self.dwconv = CausalConv(nn.Conv1d(channels, channels, kernel, groups=channels))
        self.norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.pwconv1 = nn.Linear(channels, widening * channels)
        self.pwconv2 = nn.Linear(widening * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pwconv1(self.norm(self.dwconv(x).mT))
        return x + (self.gamma * self.pwconv2(gelu(inner))).mT


class ConvNeXtEncoder(nn.Module):
    """(rows, channels, n) → (rows, dims[-1], n). depths: blocks in each stage; dims: their channels."""

    def __init__(self, channels: int, depths: Sequence[int], dims: Sequence[int], kernel: int) -> None:
        super().__init__()
        stem = nn.Sequential(CausalConv(nn.Conv1d(channels, dims[0], kernel)), ChannelNorm(dims[0]))
        widenings = (
            nn.Sequential(ChannelNorm(dim), nn.Conv1d(dim, wider, 1)) for dim, wider in itertools.pairwise(dims)
        )
        self.downsample_layers = nn.ModuleList([stem, *widenings])
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = ChannelNorm(dims[-1])

    def forward(self, x: Tensor) -> Tensor:
        for entry, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(entry(x))
        return self.norm(x)
