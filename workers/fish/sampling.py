"""How the next token is drawn, in the published order: repetition penalty, top-p, temperature, one exponential race.

    logits ─▶ penalise what the window holds ─▶ drop all beyond top_p ─▶ divide by temperature ─▶ softmax ─▶ p / noise

Each sequence has a generator of its own, from which its noise is drawn in a fixed order, so what it says depends on its
seed alone, not on its company. Shapes: B rows, V the size of what is drawn from, W the window.

Source: `logits_to_probs`, `decode_one_token_ar` and `decode_n_tokens` in fish_speech/models/text2semantic/inference.py
of fishaudio/fish-speech at v1.5.1 (58046ea), and of PyPI fish-speech 0.1.0.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from contract.errors import InvalidInput

WINDOW = 16
"""Frames that the repetition penalty looks back."""
DRAWN_CODES = 1024
"""Codes of the codebooks 1 to C - 1 that are drawn from: OpenAudio S1's tables are longer for the first one only."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """The published ranges and OpenAudio S1's defaults. seed: None draws one.

    temperature: in (0, 2); top_p: in (0, 1]; repetition_penalty: in (0, 2). Raises: InvalidInput.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    repetition_penalty: float = 1.1
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("repetition_penalty", 0, 2)):
            value = getattr(self, name)
            if not low < value < high and not (name == "top_p" and value == 1):
                raise InvalidInput(f"`{name}` must be above {low} and below {high}.", field=name)
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InvalidInput("`seed` must be a whole number from 0 to 2^63 - 1.", field="seed")

    def generator(self, device: torch.device) -> torch.Generator:
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def probabilities(logits: Tensor, rules: Tensor, window: Tensor) -> Tensor:
    """logits: float32, (B, V); rules: (B, 3), temperature, top_p and penalty; window: int64, (B, W). → (B, V).

    As published, the token that crosses top_p is dropped with those after it, and the most likely one always stays.
    Those that stay are told by the least likely one's logit, which needs no way back from the sorted order.
    """
    temperature, top_p, penalty = rules.split(1, dim=1)
    score = logits.gather(-1, window)
    logits = logits.scatter(-1, window, torch.where(score < 0, score * penalty, score / penalty))
    ordered = _descending(logits)
    kept = (ordered.softmax(dim=-1).cumsum(dim=-1) <= top_p).sum(dim=-1, keepdim=True)
    least = ordered.gather(-1, (kept - 1).clamp(min=0))
    logits = torch.where(logits >= least, logits, -torch.inf)
    return (logits / temperature.clamp(min=1e-5)).softmax(dim=-1)


def draw(logits: Tensor, rules: Tensor, window: Tensor, noise: Tensor) -> Tensor:
    """One of V for each row, int64, (B,). noise: (B, V), exponentially distributed."""
    raced = probabilities(logits.float(), rules, window) / noise
    return raced.argmax(dim=-1) if raced.is_cuda else torch.from_numpy(np.argmax(raced.numpy(), axis=-1))


def _descending(values: Tensor) -> Tensor:
    """Along the last dimension. numpy sorts a vocabulary's floats in a hundredth of the time that torch's CPU takes."""
    if values.is_cuda:
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)


def frame_noise(generator: torch.Generator, sizes: list[int]) -> list[Tensor]:
    """The noise of one frame of one sequence: for each token of it, in order, float32 of that many choices."""
    return [torch.empty(size, device=generator.device).exponential_(1, generator=generator) for size in sizes]


@dataclasses.dataclass(slots=True)
class Window:
    """The last frames of each row, int64, (rows, 1 + C, WINDOW), and how many were remembered, int64, (rows,).

    As published: the first frame of a sequence is not remembered, and a window that is not full yet holds zeros, which
    are penalised like any other token.
    """

    frames: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, rows: int, codebooks: int, device: torch.device) -> Window:
        frames = torch.zeros(rows, codebooks + 1, WINDOW, dtype=torch.int64, device=device)
        return cls(frames, torch.zeros(rows, dtype=torch.int64, device=device))

    def forget(self, row: int) -> None:
        self.frames[row] = 0
        self.counts[row] = 0

    def remember(self, rows: Tensor, tokens: Tensor) -> None:
        """tokens: (B, 1 + C), the new frame of each of these rows."""
        frames, counts = self.frames[rows], self.counts[rows]
        full = (counts >= WINDOW)[:, None, None]
        frames = torch.where(full, frames.roll(-1, dims=-1), frames)
        column = torch.arange(WINDOW, device=rows.device) == counts.clamp(max=WINDOW - 1)[:, None]
        self.frames[rows] = torch.where(column[:, None], tokens[:, :, None], frames)
        self.counts[rows] = counts + 1
