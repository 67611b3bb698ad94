"""A static key-value cache whose rows stand at positions of their own.

The published code writes one position for all rows of a batch. Here each row is a place for one sequence: it is filled
from the start by a prompt, then grows by one position at a time, whatever the other rows do. Nothing is cleared between
sequences, since no row ever reads beyond its own position.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import torch
from torch import Tensor

Rows: TypeAlias = slice | Tensor
"""Rows that stand side by side, so that reading copies nothing, or the numbers of any, int64, (B,)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where S new positions of B rows go, and what they may see.

    columns: the new positions, a slice where all rows are equally far, else the one of each row, int64, (B,); numbers:
    of the rows, then; length: how many cached positions are read, L; mask: what is added to the scores, (B or 1, 1, S,
    L), 0 or -inf, None where all are seen; from_start: the first of these positions is 0, so nothing is read.
    """

    rows: Rows
    columns: slice | Tensor
    length: int
    numbers: Tensor | None = None
    mask: Tensor | None = None
    from_start: bool = False

    @classmethod
    def prompt(cls, row: int, start: int, end: int, like: Tensor) -> Place:
        """Positions `start` to `end` of one row, those before them cached. like: of the model's device and type."""
        mask = None
        if start:
            positions = torch.arange(end, device=like.device)
            mask = _added(positions <= positions[start:, None], like)[None, None]
        return cls(slice(row, row + 1), slice(start, end), end, mask=mask, from_start=not start)

    @classmethod
    def one_more(cls, rows: Rows, numbers: Tensor, positions: Tensor, length: int, like: Tensor) -> Place:
        """The next position of each row. positions: int64, (B,), below `length` where the row's result matters."""
        seen = torch.arange(length, device=like.device) <= positions[:, None]
        return cls(rows, positions, length, numbers, _added(seen, like)[:, None, None])

    @classmethod
    def together(cls, rows: int, first: int, count: int) -> Place:
        """Positions `first` to `first + count` of the rows 0 to `rows`. count > 1: first is 0."""
        return cls(slice(0, rows), slice(first, first + count), first + count, from_start=count > 1)

    def of(self, table: Tensor) -> Tensor:
        """What a table holds for these positions: (length, …) → (B or 1, S, …)."""
        return table[self.columns].unsqueeze(1 if isinstance(self.columns, Tensor) else 0)


def _added(seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=like.device, dtype=like.dtype).masked_fill_(~seen, -torch.inf)


class KeyValueCache:
    """Keys and values of all layers, (layers, rows, K, length, D) each, allocated once."""

    def __init__(self, shape: tuple[int, int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)

    def write(self, layer: int, place: Place, keys: Tensor, values: Tensor) -> None:
        """keys, values: (B, K, S, D)."""
        for cached, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if isinstance(place.columns, slice):
                cached[place.rows][:, :, place.columns] = new
            else:
                cached[place.numbers, :, place.columns] = new.squeeze(2)

    def read(self, layer: int, place: Place) -> tuple[Tensor, Tensor]:
        """(B, K, length, D) each: views where the rows stand side by side."""
        return self.keys[layer][place.rows, :, : place.length], self.values[layer][place.rows, :, : place.length]

    def start_of(self, row: int, length: int) -> tuple[Tensor, Tensor]:
        """A row's first positions, as views: (layers, K, length, D) each."""
        return self.keys[:, row, :, :length], self.values[:, row, :, :length]
