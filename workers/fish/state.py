"""What the rows of the loop are between two frames, as tensors that stay where they are on the device.

A step reads them, makes the next frame and advances them, all on the device, so that a CUDA graph holds all of it and
the host sends nothing but which rows advance. The host knows as much as it must: where each row stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.fish.cache import Rows
from workers.fish.sampling import WINDOW


class State:
    """R rows.

    tokens: int64, (R, 1 + C), each one's last column; positions: int64, (R,), where that goes in the cache; made:
    int64, (R,), frames so far; keys: int64, (R,), of the noise; rules: float32, (R, 3), temperature, top_p and penalty;
    windows: int64, (R, 1 + C, WINDOW), the last frames. As published, the first frame of a sequence is not remembered,
    and a window that is not full yet holds zeros, which are penalised like any other token.
    """

    def __init__(self, rows: int, codebooks: int, device: torch.device) -> None:
        self._numbers = torch.zeros(rows, codebooks + 4, dtype=torch.int64, device=device)
        self.keys, self.positions, self.made = self._numbers[:, :3].unbind(dim=1)
        self.tokens = self._numbers[:, 3:]
        self.rules = torch.ones(rows, 3, device=device)
        self.windows = torch.zeros(rows, codebooks + 1, WINDOW, dtype=torch.int64, device=device)
        self.numbers = torch.arange(rows, device=device)
        """Of the rows."""
        self._columns = torch.arange(WINDOW, device=device)

    def begin(self, row: int, key: int, prompt: Tensor, rules: Sequence[float]) -> None:
        """A new sequence, whose prompt, (1 + C, T), on the CPU, is in the cache up to its last column."""
        numbers = torch.tensor([key, prompt.size(1) - 1, 0, *prompt[:, -1].tolist()])
        self._numbers[row].copy_(sent(numbers, self.rules.device))
        self.rules[row].copy_(sent(torch.tensor(rules), self.rules.device))
        self.windows[row].zero_()

    def advance(self, rows: Rows, frames: Tensor, active: Tensor) -> None:
        """frames: int64, (B, 1 + C), the next of each row; active: bool, (B,), the rows of which it is told."""
        made, windows = self.made[rows], self.windows[rows]
        remembered = made - 1
        full = (remembered >= WINDOW)[:, None, None]
        column = self._columns == remembered.clamp(max=WINDOW - 1)[:, None]
        moved = torch.where(full, windows.roll(-1, dims=-1), windows)
        self.windows[rows] = torch.where(
            (column & active[:, None])[:, None], frames[:, :, None], _kept(active, moved, windows)
        )
        self.tokens[rows] = _kept(active, frames, self.tokens[rows])
        self.positions[rows] += active
        self.made[rows] = made + active


def _kept(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(active.view(-1, *[1] * (new.ndim - 1)), new, old)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on its way to the device, for which nobody waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
