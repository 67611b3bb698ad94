"""The HiFi-GAN head of the firefly codec: features of spectrogram frames to samples.

Source: HiFi-GAN (arXiv:2010.05646), causal and with SiLU; the names of the parameters are those of fish-speech v1.5.0
(7902e40), fish_speech/models/vqgan/modules/firefly.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from workers.fish.causal import CausalConv, CausalTransposedConv

_DILATIONS = (1, 3, 5)


class ResidualBlock(nn.Module):
    """(rows, channels, n) → the same."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1, self.convs2 = (
            nn.ModuleList(CausalConv(nn.Conv1d(channels, channels, kernel, dilation=step)) for step in _DILATIONS)
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(silu(first(silu(x))))
        return x


class ParallelBlocks(nn.Module):
    """The mean of one block for each kernel."""

    def __init__(self, channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        total = self.blocks[0](x)
        for block in self.blocks[1:]:
            total = total + block(x)
        return total / len(self.blocks)


class HifiGan(nn.Module):
    """(rows, dim, n) → (rows, n * prod(rates)), in [-1, 1].

    rates: by how much each stage lengthens; kernels: of its transposed convolutions; width: channels before the first
    stage, halved by each; block_kernels: of the residual blocks; ends: kernels of the first and the last convolution.
    """

    def __init__(
        self,
        *,
        dim: int,
        width: int,
        rates: Sequence[int],
        kernels: Sequence[int],
        block_kernels: Sequence[int],
        ends: tuple[int, int],
    ) -> None:
        super().__init__()
        widths = [width >> index for index in range(len(rates) + 1)]
        self.conv_pre = CausalConv(nn.Conv1d(dim, width, ends[0]))
        self.ups = nn.ModuleList(
            CausalTransposedConv(nn.ConvTranspose1d(before, after, kernel, stride=rate))
            for before, after, kernel, rate in zip(widths, widths[1:], kernels, rates, strict=False)
        )
        self.resblocks = nn.ModuleList(ParallelBlocks(after, block_kernels) for after in widths[1:])
        self.conv_post = CausalConv(nn.Conv1d(widths[-1], 1, ends[1]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for up, blocks in zip(self.ups, self.resblocks, strict=True):
            x = blocks(up(silu(x)))
        return torch.tanh(self.conv_post(silu(x)))[:, 0]
