"""The codec's decoder for the rows of a loop: what each row's stream remembers, side by side, for as long as it serves.

    begin(row)            a new sound
    push(rows, codes) ─▶  sound: memories gathered ─▶ the codec's layers go on from them ─▶ memories put back

The memories of all layers lie in one tensor for each type of numbers, a row for each row of the loop and one to spare,
so that a push gathers them by one operation. With graphs, a push is one replay for a power of two of rows, filled up
with the spare one, and as many frames as one of `blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from workers.fish.causal import HeldMemory, Memory
from workers.fish.codec import Audio, Codec
from workers.fish.graphs import Capture, Shapes, Step
from workers.fish.state import sent
from workers.runtime.cuda_graphs import sizes_up_to


class RowDecoder:
    """rows: of the loop; blocks: how many frames are pushed at once, where `capture` is given."""

    def __init__(self, codec: Codec, rows: int, blocks: Sequence[int] = (), capture: Capture | None = None) -> None:
        self._codec, self._spare, self._blocks, self._sizes = codec, rows, blocks, sizes_up_to(rows)
        with torch.inference_mode():
            self._memories = _Memories(codec, rows + 1)
            self._rows = torch.full((rows,), rows, device=codec.device)
            self._codes = {block: self._silence(rows, block) for block in blocks}
        self.shapes = self._shaped(capture) if capture else None

    def prepare(self) -> None:
        """Capture what `push` will need."""
        if self.shapes is not None:
            with torch.inference_mode():
                self.shapes.prepare("sound", [(rows, block) for rows in self._sizes for block in self._blocks])

    def begin(self, row: int) -> None:
        with torch.inference_mode():
            self._memories.clear(row)

    def push(self, rows: Sequence[int], codes: Tensor) -> list[Audio]:
        """codes: int64, (B, C, n), on the CPU, that follow the last ones of each row → float32, (n * frame_length,)."""
        with torch.inference_mode():
            if self.shapes is None or codes.size(2) not in self._blocks:
                sound = self._decoded(torch.tensor(rows, device=self._codec.device), codes.to(self._codec.device))
            else:
                sound = self._replayed(self.shapes, rows, codes)
            return list(np.asarray(sound.float().cpu().numpy()))

    def _decoded(self, rows: Tensor, codes: Tensor) -> Tensor:
        """What the memories are put back is the last that is done: what failed before can be done again."""
        memory, held = self._memories.of(rows)
        with memory.current():
            sound = self._codec._decode(codes)
        self._memories.put_back(rows, held)
        return sound

    def _replayed(self, shapes: Shapes[tuple[int, int]], rows: Sequence[int], codes: Tensor) -> Tensor:
        block, size = codes.size(2), next(size for size in self._sizes if size >= len(rows))
        step = shapes.of((size, block))
        filled = [*rows, *[self._spare] * (size - len(rows))]
        self._rows[:size].copy_(sent(torch.tensor(filled), self._codec.device))
        self._codes[block][: len(rows)].copy_(sent(codes, self._codec.device))
        return step()[: len(rows)]

    def _shaped(self, capture: Capture) -> Shapes[tuple[int, int]]:
        def make(shape: tuple[int, int]) -> Step:
            rows, block = shape
            self._rows.fill_(self._spare)
            return lambda: self._filled(self._rows[:rows], self._codes[block][:rows])

        return Shapes(make, capture)

    def _filled(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Afterwards the spare row begins again: a codec may count the frames of a sound, and holds only so many."""
        sound = self._decoded(rows, codes)
        self._memories.clear(self._spare)
        return sound

    def _silence(self, rows: int, block: int) -> Tensor:
        return torch.zeros(rows, self._codec.codebooks, block, dtype=torch.int64, device=self._codec.device)


class _Memories:
    """What a codec's layers remember of so many streams; of which shape that is, one frame tells."""

    def __init__(self, codec: Codec, rows: int) -> None:
        sample = Memory()
        with sample.current():
            codec._decode(torch.zeros(1, codec.codebooks, 1, dtype=torch.int64, device=codec.device))
        self._places: list[tuple[nn.Module, torch.dtype, int, torch.Size]] = []
        widths: dict[torch.dtype, int] = {}
        for layer, past in sample.pasts.items():
            begin = widths.get(past.dtype, 0)
            self._places.append((layer, past.dtype, begin, past.shape[1:]))
            widths[past.dtype] = begin + past[0].numel()
        self._held = {
            dtype: torch.zeros(rows, width, dtype=dtype, device=codec.device) for dtype, width in widths.items()
        }

    def clear(self, row: int) -> None:
        for held in self._held.values():
            held[row].zero_()

    def of(self, rows: Tensor) -> tuple[Memory, dict[torch.dtype, Tensor]]:
        """A memory of these rows, and the tensors that it writes into."""
        taken = {dtype: held[rows] for dtype, held in self._held.items()}
        pasts = {
            layer: taken[dtype][:, begin : begin + math.prod(shape)].unflatten(1, shape)
            for layer, dtype, begin, shape in self._places
        }
        return HeldMemory(pasts), taken

    def put_back(self, rows: Tensor, taken: dict[torch.dtype, Tensor]) -> None:
        for dtype, held in self._held.items():
            held[rows] = taken[dtype]
