"""One frame of several sequences as a pure function of tensors, so that it can be captured or compiled.

Beside its result it only writes the caches, at positions that it is given: doing it twice changes nothing.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from workers.fish.cache import KeyValueCache, Place
from workers.fish.dual_ar import DualAR
from workers.fish.family import Family
from workers.fish.sampling import DRAWN_CODES, draw


@dataclasses.dataclass(frozen=True, slots=True)
class Frames:
    """B sequences' state before their next frame.

    tokens: int64, (B, 1 + C), each one's last frame; rows: int64, (B,), its place in the cache; positions: int64, (B,),
    where that frame goes; windows: int64, (B, 1 + C, 16); rules: float32, (B, 3), temperature, top_p and penalty;
    noise: for the semantic token and each codebook from the second on, float32, (B, choices).
    """

    tokens: Tensor
    rows: Tensor
    positions: Tensor
    windows: Tensor
    rules: Tensor
    noise: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.tokens, self.rows, self.positions, self.windows, self.rules, *self.noise)

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> Frames:
        tokens, rows, positions, windows, rules, *noise = tensors
        return cls(tokens, rows, positions, windows, rules, tuple(noise))


class FrameStep:
    def __init__(self, model: DualAR, family: Family, cache: KeyValueCache, fast_cache: KeyValueCache) -> None:
        self._model, self._family = model, family
        self._cache, self._fast_cache = cache, fast_cache

    @property
    def choices(self) -> list[int]:
        """How many there are for each token of a frame that is drawn, in the order of drawing."""
        config = self._model.config
        return [config.vocab_size, *[min(config.codebook_size, DRAWN_CODES)] * (config.num_codebooks - 1)]

    def advance(self, frames: Frames, length: int, span: slice | None = None) -> Tensor:
        """The next frame of each sequence, int64, (B, 1 + C). length: above every position."""
        place = Place.one_more(frames.rows, frames.positions, length, span)
        logits, hidden = self._model.slow_forward(frames.tokens.unsqueeze(-1), self._cache, place)
        return self.finish(logits, hidden, frames)

    def prefill(self, prompt: Tensor, row: int) -> tuple[Tensor, Tensor]:
        """prompt: int64, (1 + C, T). Logits (1, vocab_size) and hidden state (1, fast dim) after it."""
        place = Place.prompt(row, prompt.size(1), prompt.device)
        return self._model.slow_forward(prompt.unsqueeze(0), self._cache, place)

    def finish(self, logits: Tensor, hidden: Tensor, frames: Frames) -> Tensor:
        """Draw the semantic token, then the codes one after another through the fast transformer.

        The first code is the semantic token's; a token that is none counts as code 0, and one beyond the codebook,
        which the published code cannot go on from, as the last. So the fast transformer's first two inputs are known
        together.
        """
        model, first = self._model, self._model.semantic[0]
        token = draw(logits, frames.rules, self._family.slow_window(frames.windows), frames.noise[0])
        codes = [(token - first).clamp(0, model.config.codebook_size - 1)]
        rows = torch.arange(token.size(0), device=token.device)
        known = torch.stack([hidden, model.fast_embeddings(codes[0])], dim=1)
        for book in range(1, model.config.num_codebooks):
            place = Place.together(rows, book if book > 1 else 0, known.size(1))
            logits = model.fast_forward(known, self._fast_cache, place)[:, :DRAWN_CODES]
            codes.append(draw(logits, frames.rules, frames.windows[:, book + 1], frames.noise[book]))
            known = model.fast_embeddings(codes[-1]).unsqueeze(1)
        return torch.stack([token, *codes], dim=1)
