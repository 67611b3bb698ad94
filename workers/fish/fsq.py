"""Finite scalar quantisation: the codes of the firefly codec.

Each of a vector's few dimensions is squashed and rounded to one of `levels` values; the code is the number whose digits
these are. Here the channels are cut into groups with a code each, and rounding may be repeated on what the last round
left over (residual). Steps are merged before and told apart again after.

Sources: FSQ (arXiv:2309.15505); residual vector quantisation (arXiv:2107.03312, algorithm 1); equal to
vector-quantize-pytorch 1.14.24, whose residual form squashes twice before the first rounding, which the published
weights were trained with; fish-speech v1.5.0 (7902e40), fish_speech/models/vqgan/modules/fsq.py.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workers.fish.causal import CausalConv, CausalTransposedConv
from workers.fish.convnext import ConvNeXtBlock

_SLACK = 1e-3
"""How far the squashing reaches beyond the outer levels, so that they can be reached at all."""


class ResidualFsq(nn.Module):
    """One group's codes. dim: its channels; levels: values of each dimension; rounds: codes for each vector."""

    def __init__(self, dim: int, levels: Sequence[int], rounds: int = 1) -> None:
        super().__init__()
        self.size = math.prod(levels)
        self.project_in = nn.Linear(dim, len(levels))
        self.project_out = nn.Linear(len(levels), dim)
        # On the CPU even where parameters are made on the meta device: these come with no checkpoint.
        counts = torch.tensor(levels, device="cpu")
        places = torch.tensor([1, *itertools.accumulate(levels[:-1], operator.mul)], device="cpu")
        scales = torch.stack([(counts - 1.0) ** -index for index in range(rounds)])
        extent = (counts - 1) * (1 + _SLACK) / 2
        offset = (1 - counts % 2) / 2
        for name, constant in {
            "counts": counts,
            "places": places,
            "scales": scales,
            "centre": counts // 2,
            "extent": extent,
            "offset": offset,
            "shift": torch.atanh(offset / extent),
        }.items():
            self.register_buffer(name, constant, persistent=False)

    def encode(self, z: Tensor) -> Tensor:
        """z: float32, (..., dim) → int64, (..., rounds)."""
        left = self._squash(self.project_in(z))
        codes = []
        for scale in self.scales:
            digits = self._squash(left / scale).round()
            left = left - digits / self.centre * scale
            codes.append(((digits.long() + self.centre) * self.places).sum(-1))
        return torch.stack(codes, dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64, (..., rounds) → float32, (..., dim)."""
        digits = codes[..., None] // self.places % self.counts
        values = (digits - self.centre) / self.centre * self.scales
        return self.project_out(values.sum(-2))

    def _squash(self, z: Tensor) -> Tensor:
        return torch.tanh(z + self.shift) * self.extent - self.offset


class GroupedFsq(nn.Module):
    """(rows, n, dim) ↔ (rows, groups * rounds, n): the channels in groups of equal size."""

    def __init__(self, dim: int, groups: int, levels: Sequence[int], rounds: int = 1) -> None:
        super().__init__()
        self.rvqs = nn.ModuleList(ResidualFsq(dim // groups, levels, rounds) for _ in range(groups))

    def encode(self, z: Tensor) -> Tensor:
        parts = z.chunk(len(self.rvqs), dim=-1)
        return torch.cat([rvq.encode(part) for rvq, part in zip(self.rvqs, parts, strict=True)], dim=-1).mT

    def decode(self, codes: Tensor) -> Tensor:
        parts = codes.mT.chunk(len(self.rvqs), dim=-1)
        return torch.cat([rvq.decode(part) for rvq, part in zip(self.rvqs, parts, strict=True)], dim=-1)


class DownsampledFsq(nn.Module):
    """(rows, dim, n) ↔ (rows, codebooks, n / prod(factors)): steps are merged by `factors`, and coded."""

    def __init__(
        self, dims: Sequence[int], factors: Sequence[int], groups: int, levels: Sequence[int], rounds: int = 1
    ) -> None:
        """dims: channels before, between and after the mergings; one more than factors."""
        super().__init__()
        self.residual_fsq = GroupedFsq(dims[-1], groups, levels, rounds)
        steps = list(zip(dims, dims[1:], factors, strict=False))
        self.downsample = nn.Sequential(
            *(nn.Sequential(CausalConv(nn.Conv1d(a, b, by, stride=by)), ConvNeXtBlock(b)) for a, b, by in steps)
        )
        self.upsample = nn.Sequential(
            *(
                nn.Sequential(CausalTransposedConv(nn.ConvTranspose1d(b, a, by, stride=by)), ConvNeXtBlock(a))
                for a, b, by in steps[::-1]
            )
        )

    def encode(self, z: Tensor) -> Tensor:
        return self.residual_fsq.encode(self.downsample(z).mT)

    def decode(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """dtype: of the parameters of `upsample`. Raises nothing: codes beyond the last one count as the last."""
        known = codes.clamp(0, self.residual_fsq.rvqs[0].size - 1)
        return self.upsample(self.residual_fsq.decode(known).mT.to(dtype))
