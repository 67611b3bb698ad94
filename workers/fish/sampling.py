"""How the next token is drawn, in the published order: repetition penalty, top-p, temperature, one exponential race.

    logits ─▶ penalise what the window holds ─▶ drop all beyond top_p ─▶ divide by temperature ─▶ softmax ─▶ p / noise

The noise is the caller's (`workers.fish.noise`), so what a sequence says depends on its seed alone, not on its company.
Nothing here waits for the device. Shapes: B rows, V the size of what is drawn from, W the window.

Source: `logits_to_probs`, `decode_one_token_ar` and `decode_n_tokens` in fish_speech/models/text2semantic/inference.py
of fishaudio/fish-speech at v1.5.1 (58046ea), and of PyPI fish-speech 0.1.0.
"""

from __future__ import annotations

import dataclasses
import secrets

import numpy as np
import torch
from torch import Tensor

from contract.errors import InvalidInput

WINDOW = 16
"""Frames that the repetition penalty looks back."""
LEAST_TEMPERATURE = 1e-5
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

    def drawn(self) -> int:
        """The seed, or one that nobody knows."""
        return secrets.randbits(63) if self.seed is None else self.seed


def probabilities(logits: Tensor, rules: Tensor, window: Tensor) -> Tensor:
    """logits: float32, (B, V), which are written over; rules: (B, 3), temperature, top_p and penalty; window: int64,
    (B, W). → (B, V).

    As published, the token that crosses top_p is dropped with those after it, and the most likely one always stays.
    Those that stay are told by the least likely one's logit, which needs no way back from the sorted order.
    """
    temperature, top_p, penalty = rules.split(1, dim=1)
    score = logits.gather(-1, window)
    logits.scatter_(-1, window, torch.where(score < 0, score * penalty, score / penalty))
    ordered = _descending(logits)
    least = (ordered.softmax(dim=-1).cumsum(dim=-1)[:, 1:] <= top_p).sum(dim=-1, keepdim=True)
    logits.masked_fill_(logits < ordered.gather(-1, least), -torch.inf)
    return (logits / temperature).softmax(dim=-1)


def draw(logits: Tensor, rules: Tensor, window: Tensor, noise: Tensor) -> Tensor:
    """One of V for each row, int64, (B,). logits: as `probabilities`; noise: (B, V), exponentially distributed."""
    raced = probabilities(logits, rules, window) / noise
    return torch.from_numpy(np.argmax(raced.numpy(), axis=-1)) if raced.is_cpu else raced.argmax(dim=-1)


def _descending(values: Tensor) -> Tensor:
    """Along the last dimension. numpy sorts a vocabulary's floats in a hundredth of the time that torch's CPU takes."""
    if values.is_cpu:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(dim=-1, descending=True).values
