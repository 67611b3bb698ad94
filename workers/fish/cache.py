"""A static key-value cache whose rows stand at positions of their own.

The published code writes one position for all rows of a batch. Here each row is a place for one sequence: it is filled
from the start by a prompt, then grows by one position at a time, whatever the other rows do. Nothing is cleared between
sequences, since no row ever reads beyond its own position.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where new positions of some rows go, and what they may see.

    rows: int64, (B,); positions: int64, (B, S) or, where all rows are alike, (1, S); length: how many cached positions
    are read, L; mask: bool, (B, 1, 1, L), None where all of them are seen; from_start: the first of these positions is
    0, so nothing is read; span: `rows` as a slice where they stand side by side, so that reading copies nothing.
    """

    rows: Tensor
    positions: Tensor
    length: int
    mask: Tensor | None = None
    from_start: bool = False
    span: slice | None = None

    @classmethod
    def prompt(cls, row: int, length: int, device: torch.device) -> Place:
        """All positions of one row's prompt."""
        positions = torch.arange(length, device=device).unsqueeze(0)
        rows = torch.tensor([row], device=device)
        return cls(rows, positions, length, from_start=True, span=slice(row, row + 1))

    @classmethod
    def one_more(cls, rows: Tensor, positions: Tensor, length: int, span: slice | None = None) -> Place:
        """The next position of each row. positions: int64, (B,), each below `length`."""
        seen = torch.arange(length, device=rows.device) <= positions.unsqueeze(1)
        return cls(rows, positions.unsqueeze(1), length, mask=seen[:, None, None], span=span)

    @classmethod
    def together(cls, rows: Tensor, first: int, count: int) -> Place:
        """Positions `first` to `first + count` of the rows 0 to B, which are all equally far. count > 1: first is 0."""
        positions = torch.arange(first, first + count, device=rows.device).unsqueeze(0)
        return cls(rows, positions, first + count, from_start=count > 1, span=slice(0, rows.size(0)))


class KeyValueCache:
    """Keys and values of all layers, (layers, rows, K, length, D) each, allocated once."""

    def __init__(self, shape: tuple[int, int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)

    def write(self, layer: int, place: Place, keys: Tensor, values: Tensor) -> None:
        """keys, values: (B, K, S, D)."""
        rows = place.rows.unsqueeze(1)
        self.keys[layer].transpose(1, 2)[rows, place.positions] = keys.transpose(1, 2)
        self.values[layer].transpose(1, 2)[rows, place.positions] = values.transpose(1, 2)

    def read(self, layer: int, place: Place) -> tuple[Tensor, Tensor]:
        """(B, K, length, D) each: views where the rows stand side by side."""
        rows = place.rows if place.span is None else place.span
        return self.keys[layer][rows, :, : place.length], self.values[layer][rows, :, : place.length]
