"""The generation loop: several sequences in one batch, which join and leave between any two frames.

    open(utterance) ─▶ handle          takes a row of the cache; nothing is computed
    step([handle, …]) ─▶ [Frame, …]    one frame for each; a handle's first step reads its prompt
    close(handle)                      at its end, or before: the row is free for another

In the worker protocol a handle is a unit and `step` is `forward`: one unit is one frame. Cancelling is closing; a
deadline is the caller's, who decides between frames whether to go on. What a sequence says depends on its prompt, its
sampling and its seed, not on the others, and equals what the published `generate` says from the same noise.

Source: `generate`, `decode_n_tokens` and `generate_long` in fish_speech/models/text2semantic/inference.py of
fishaudio/fish-speech at v1.5.1 (58046ea) and of PyPI fish-speech 0.1.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from contract.errors import InvalidInput, QueueFull, TextTooLong
from workers.fish.checkpoint import Checkpoint
from workers.fish.frame import Frames, FrameStep
from workers.fish.graphs import Acceleration, Shapes, accelerated
from workers.fish.sampling import Sampling, Window, frame_noise

Stop = Literal["end", "length"]
"""Why a sequence ended: it said so, or `max_new_tokens` or the cache was used up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """prompt: int64, (1 + C, T), from `Checkpoint.prompt`. max_new_tokens: frames at most; 0: as the cache holds."""

    prompt: Tensor
    sampling: Sampling
    max_new_tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """codes: int64, (C,), on the CPU; None where the published code does not keep this frame. stop: of the last."""

    codes: Tensor | None
    stop: Stop | None


@dataclasses.dataclass(slots=True, eq=False)
class Handle:
    """A sequence under way. made: frames so far, of at most `limit`. Between frames it belongs to the loop."""

    row: int
    utterance: Utterance
    generator: torch.Generator
    limit: int
    made: int = 0
    stop: Stop | None = None
    closed: bool = False

    @property
    def position(self) -> int:
        """Where the last frame goes in the cache."""
        return int(self.utterance.prompt.size(1)) + self.made - 1


class Loop:
    """rows: sequences at once; length: positions of each, at most and by default the model's max_seq_len.

    The cache is allocated here and for good: bytes = 2 x layers x (rows + 1) x key-value heads x length x head width x
    those of a number. Not thread-safe.
    """

    def __init__(
        self, checkpoint: Checkpoint, rows: int = 1, length: int | None = None, acceleration: Acceleration = "none"
    ) -> None:
        model, self._family, self._end_id = checkpoint.model, checkpoint.family, checkpoint.end_id
        self.length = min(length or model.config.max_seq_len, model.config.max_seq_len)
        self._device = model.embeddings.weight.device
        self._codebooks = model.config.num_codebooks
        with torch.inference_mode():
            # One row to spare, and batches that are filled up to a power of two.
            self._step = FrameStep(model, self._family, *model.caches(rows + 1, self.length, 2 * rows))
            self._tokens = torch.zeros(rows, self._codebooks + 1, dtype=torch.int64, device=self._device)
            self._rules = torch.ones(rows, 3, device=self._device)
            self._window = Window.empty(rows, self._codebooks, self._device)
        self._free = list(range(rows))
        self._shapes: Shapes | None = None
        if acceleration != "none":
            self._shapes = Shapes(accelerated(self._step, acceleration), spare=rows, longest=self.length)

    @property
    def free(self) -> int:
        """How many more sequences can be opened."""
        return len(self._free)

    def check(self, prompt: Tensor, frames: int = 1) -> None:
        """Whether a prompt is this model's and leaves room for so many frames. Raises: TextTooLong, InvalidInput."""
        if prompt.ndim != 2 or prompt.size(0) != self._codebooks + 1 or not prompt.size(1):
            raise InvalidInput(f"A prompt for this model has {self._codebooks + 1} rows and at least one column.")
        if prompt.size(1) + frames > self.length:
            raise TextTooLong(
                f"The text and the references take {prompt.size(1)} tokens and the model holds {self.length} with what "
                "it says. Send a shorter text, or fewer or shorter references.",
                tokens=prompt.size(1),
                limit=self.length,
            )

    def open(self, utterance: Utterance) -> Handle:
        """Raises: TextTooLong, InvalidInput, QueueFull when no row is free."""
        self.check(utterance.prompt)
        if utterance.max_new_tokens < 0:
            raise InvalidInput("`max_new_tokens` must not be negative.", field="max_new_tokens")
        if not self._free:
            raise QueueFull(f"All {self._rules.size(0)} places of the speech model are taken; try again later.")
        row = min(self._free)  # low rows side by side can be read without copying
        self._free.remove(row)
        sampling = utterance.sampling
        rules = (sampling.temperature, sampling.top_p, sampling.repetition_penalty)
        with torch.inference_mode():
            self._rules[row] = torch.tensor(rules, dtype=self._family.rules).float().to(self._device)
            self._window.forget(row)
        room = self.length - utterance.prompt.size(1)
        limit = min(utterance.max_new_tokens or room, room)
        return Handle(row, utterance, sampling.generator(self._device), limit)

    def close(self, handle: Handle) -> None:
        """A second time it does nothing."""
        if not handle.closed:
            handle.closed = True
            self._free.append(handle.row)

    def step(self, handles: Sequence[Handle]) -> list[Frame]:
        """One frame for each handle, in order; each handle once, open, and not at its end."""
        if len(set(handles)) != len(handles) or any(handle.closed or handle.stop for handle in handles):
            raise ValueError("a step takes each handle once, while it is open and not at its end")
        joining = [handle for handle in handles if not handle.made]
        going = sorted((handle for handle in handles if handle.made), key=lambda handle: handle.row)
        with torch.inference_mode():
            parts = [part(some) for part, some in ((self._join, joining), (self._go_on, going)) if some]
            tokens = dict(zip([*joining, *going], torch.cat(parts).cpu(), strict=True)) if parts else {}
        return [self._frame(handle, tokens[handle]) for handle in handles]

    def _join(self, handles: list[Handle]) -> Tensor:
        """First frames, (B, 1 + C): prompts one by one, being of any length, then the codebooks together."""
        read = [self._step.prefill(handle.utterance.prompt.to(self._device), handle.row) for handle in handles]
        logits, hidden = (torch.cat(parts) for parts in zip(*read, strict=True))
        frames = self._frames(handles)
        frames.rules[:, 2] = 1.0  # nothing was said yet that could be penalised
        tokens = self._step.finish(logits, hidden, frames)
        self._tokens[frames.rows] = tokens
        return tokens

    def _go_on(self, handles: list[Handle]) -> Tensor:
        """Next frames, (B, 1 + C). handles: by row."""
        frames, length = self._frames(handles), 1 + max(handle.position for handle in handles)
        if self._shapes:
            tokens = self._shapes.advance(frames, length)
        else:
            first, last = handles[0].row, handles[-1].row
            side_by_side = last - first + 1 == len(handles)
            tokens = self._step.advance(frames, length, slice(first, last + 1) if side_by_side else None)
        self._tokens[frames.rows] = tokens
        self._window.remember(frames.rows, tokens)
        return tokens

    def _frames(self, handles: list[Handle]) -> Frames:
        rows = torch.tensor([handle.row for handle in handles], device=self._device)
        positions = torch.tensor([handle.position for handle in handles], device=self._device)
        noise = zip(*(frame_noise(handle.generator, self._step.choices) for handle in handles), strict=True)
        return Frames(
            tokens=self._tokens[rows],
            rows=rows,
            positions=positions,
            windows=self._window.frames[rows],
            rules=self._rules[rows],
            noise=tuple(torch.stack(drawn) for drawn in noise),
        )

    def _frame(self, handle: Handle, tokens: Tensor) -> Frame:
        """tokens: (1 + C,). As published, a first frame never ends a sequence."""
        first = not handle.made
        handle.made += 1
        if not first and int(tokens[0]) == self._end_id:
            handle.stop = "end"
        elif handle.made == handle.limit:
            handle.stop = "length"
        kept = (self._family.keeps_first or not first) and (self._family.keeps_last or not handle.stop)
        return Frame(tokens[1:].clone() if kept else None, handle.stop)
