"""What the encoder made of pieces, where the model computes: on a GPU it does not leave the device.

    encode (B, n_mels, frames) ─▶ (B, frames / 2, width) ─▶ a `Row` for each ─▶ joined() ─▶ language, generate, align

Passes of one piece may share a batch with others each time, so rows are put together anew, unless they are a whole
batch as it was encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from workers.whisper.device import storage


class Row(NamedTuple):
    """One piece's place in an encoded batch. batch: CTranslate2's storage, (B, frames / 2, width)."""

    batch: Any
    place: int


def rows(batch: Any) -> list[Row]:
    return [Row(batch, place) for place in range(batch.shape[0])]


def joined(some: Sequence[Row]) -> Any:
    """The rows as one batch, on the device on which they are."""
    batch = some[0].batch
    if all(row.batch is batch for row in some) and [row.place for row in some] == list(range(batch.shape[0])):
        return batch
    if batch.device == "cuda":
        return _joined_on_gpu(some)
    return storage([np.asarray(row.batch)[row.place : row.place + 1] for row in some])


def _joined_on_gpu(some: Sequence[Row]) -> Any:
    """By torch, which reads CTranslate2's memory as it lies; the two have streams of their own."""
    import ctranslate2
    import torch

    device = torch.device("cuda", some[0].batch.device_index)
    tensors = [torch.as_tensor(row.batch, device=device)[row.place : row.place + 1] for row in some]
    together = torch.cat(tensors)
    torch.cuda.current_stream(device).synchronize()
    return ctranslate2.StorageView.from_array(together)
