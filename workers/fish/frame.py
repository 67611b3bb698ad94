"""One frame of several sequences, from the state of their rows to their next state, without the host.

    state ─▶ last tokens ─▶ slow transformer ─▶ semantic token ─▶ fast transformer ─▶ codes ─▶ state, one frame on

The state is written at the very end. Before it only the caches are, at positions that it gives: what failed half-way
can be done again, and rows that do not advance are left as they were.

The semantic token is drawn from `Checkpoint.choices`, what can be said, and the output layer has no other rows. The
published code draws from the whole vocabulary, and says code 0 where words are drawn; else both are the same, also in
the repetition penalty: of the window's tokens, those that cannot be said, the zeros of a window that is not full among
them, have no logit that it could change.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.fish.cache import Place, Rows
from workers.fish.checkpoint import Checkpoint
from workers.fish.noise import exponential, places
from workers.fish.sampling import DRAWN_CODES, draw
from workers.fish.state import State, sent


class FrameStep:
    """rows: at most so many sequences; length: positions of each in the cache."""

    def __init__(self, checkpoint: Checkpoint, rows: int, length: int) -> None:
        self._model, self._family, self._head = checkpoint.model, checkpoint.family, checkpoint.head
        config, self._device = self._model.config, self._head.device
        self.cache, self._fast_cache = self._model.caches(rows, length)
        self.state = State(rows, config.num_codebooks, self._device)
        count = len(checkpoint.choices)
        self._ids = functional.pad(checkpoint.choices, (0, 1)).to(self._device)
        self._choice_of = torch.full((config.vocab_size,), count)  # what cannot be said is the choice after the last
        self._choice_of[checkpoint.choices] = torch.arange(count)
        self._choice_of = self._choice_of.to(self._device)
        self._sizes = [count + 1, *[min(config.codebook_size, DRAWN_CODES)] * (config.num_codebooks - 1)]
        self._places = places(self._sizes).to(self._device)

    def noise(self, keys: Tensor, made: Tensor) -> Tensor:
        """Of the next frame of each row: float32, (B, N), for all choices of all codebooks, side by side."""
        return exponential(keys, made, self._places)

    def read(self, prompt: Tensor, row: int, start: int) -> Tensor:
        """prompt: int64, (1 + C, T), on the CPU; of its columns those from `start` on. The last one's x, (1, dim)."""
        place = Place.prompt(row, start, prompt.size(1), self._head)
        tokens = sent(prompt[:, start:].contiguous(), self._device)
        return self._model.read(tokens[None], self.cache, place)[:, -1]

    def advance(self, rows: Rows, active: Tensor, length: int) -> Tensor:
        """The next frame of each row, int64, (B, 1 + C). length: above the position of each that is active."""
        state = self.state
        place = Place.one_more(rows, state.numbers[rows], state.positions[rows], length, self._head)
        x = self._model.read(state.tokens[rows].unsqueeze(-1), self.cache, place)
        return self.finish(rows, active, x[:, -1])

    def finish(self, rows: Rows, active: Tensor, x: Tensor) -> Tensor:
        """x: (B, dim), what the slow transformer makes of each row's last column. The next frame of each row.

        The first code is the semantic token's; the end counts as code 0. So the fast transformer's first two inputs
        are known together.
        """
        model, state = self._model, self.state
        made, windows, rules = state.made[rows], state.windows[rows], state.rules[rows].clone()
        rules[:, 2].masked_fill_(made == 0, 1.0)  # nothing was said yet that could be penalised
        noise = self.noise(state.keys[rows], made).split(self._sizes, dim=1)
        logits, hidden = model.said(x, self._head)
        logits = functional.pad(logits.float(), (0, 1), value=-torch.inf)
        token = self._ids[draw(logits, rules, self._choice_of[self._family.slow_window(windows)], noise[0])]
        codes = [(token - model.semantic[0]).clamp(0, model.config.codebook_size - 1)]
        known = torch.stack([hidden, model.fast_embeddings(codes[0])], dim=1)
        for book in range(1, model.config.num_codebooks):
            place = Place.together(token.size(0), book if book > 1 else 0, known.size(1))
            logits = model.fast_forward(known, self._fast_cache, place)[:, :DRAWN_CODES].float()
            codes.append(draw(logits, rules, windows[:, book + 1], noise[book]))
            known = model.fast_embeddings(codes[-1]).unsqueeze(1)
        frames = torch.stack([token, *codes], dim=1)
        state.advance(rows, frames, active)
        return frames
