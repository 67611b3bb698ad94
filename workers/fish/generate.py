"""The generation loop: several sequences in one batch, which join and leave between any two frames.

    open(utterance) ─▶ handle          takes a row of the cache; nothing is computed
    step([handle, …]) ─▶ [Frame, …]    one frame for each; a handle's first step reads its prompt
    close(handle)                      at its end, or before: the row is free for another

In the worker protocol a handle is a unit and `step` is `forward`: one unit is one frame. Cancelling is closing; a
deadline is the caller's, who decides between frames whether to go on. `open` and `close` touch no tensor of the device
and may be called beside `step`. What a sequence says depends on its prompt, its sampling and its seed, not on the
others, and equals what the published `generate` says from the same noise where it may say the same tokens.

With graphs, a step is one replay, for the rows 0 to the next power of two above the highest that takes part: the rows
between them are computed and left as they were, so that nothing is gathered. Without, those rows alone are computed.

Source: `generate`, `decode_n_tokens` and `generate_long` in fish_speech/models/text2semantic/inference.py of
fishaudio/fish-speech at v1.5.1 (58046ea) and of PyPI fish-speech 0.1.0.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from contract.errors import InvalidInput, QueueFull, TextTooLong
from workers.fish.checkpoint import Checkpoint
from workers.fish.frame import FrameStep
from workers.fish.graphs import Acceleration, Capture, Shapes, Step, capture_for
from workers.fish.noise import key_of
from workers.fish.prefixes import Prefixes
from workers.fish.sampling import LEAST_TEMPERATURE, Sampling
from workers.fish.state import sent
from workers.runtime.cuda_graphs import sizes_up_to

Stop = Literal["end", "length"]
"""Why a sequence ended: it said so, or `max_new_tokens` or the cache was used up."""

SHORTEST_READ = 256
"""Positions of the cache that a graph reads at least; each next kind of graph reads twice as many."""


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """prompt: int64, (1 + C, T), from `Checkpoint.prompt`. max_new_tokens: frames at most; 0: as the cache holds.

    preamble: how many of the first columns other prompts will have, too, and are worth remembering.
    """

    prompt: Tensor
    sampling: Sampling
    max_new_tokens: int = 0
    preamble: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """codes: int64, (C,), on the CPU; None where the published code does not keep this frame. stop: of the last."""

    codes: Tensor | None
    stop: Stop | None


@dataclasses.dataclass(slots=True, eq=False)
class Handle:
    """A sequence under way. key: of its noise; made: frames so far, of at most `limit`; they belong to the loop."""

    row: int
    utterance: Utterance
    key: int
    limit: int
    made: int = 0
    stop: Stop | None = None
    closed: bool = False

    @property
    def position(self) -> int:
        """Where its last column, of the prompt or of a frame, goes in the cache."""
        return int(self.utterance.prompt.size(1)) + self.made - 1


class Loop:
    """rows: sequences at once; length: positions of each, at most and by default the model's max_seq_len.

    The cache is allocated here and for good: bytes = 2 x layers x rows x key-value heads x length x head width x those
    of a number. prefixes_mb: what is kept beside it of prompts' preambles. One thread steps, any may open and close.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        rows: int = 1,
        length: int | None = None,
        acceleration: Acceleration = "none",
        prefixes_mb: float = 0,
    ) -> None:
        model, self._family, self._end_id = checkpoint.model, checkpoint.family, checkpoint.end_id
        self.length = min(length or model.config.max_seq_len, model.config.max_seq_len)
        self._device = model.embeddings.weight.device
        self._codebooks = model.config.num_codebooks
        with torch.inference_mode():
            self._step = FrameStep(checkpoint, rows, self.length)
            self._active = torch.zeros(rows, dtype=torch.bool, device=self._device)
        self._prefixes = Prefixes(self._step, prefixes_mb)
        self._rows, self._free, self._lock = rows, set(range(rows)), threading.Lock()
        self._sizes, self._lengths = sizes_up_to(rows), sizes_up_to(self.length, SHORTEST_READ)
        capture = capture_for(acceleration, self._device)
        self.shapes = self._shaped(capture) if capture else None

    @property
    def free(self) -> int:
        """How many more sequences can be opened."""
        return len(self._free)

    def prepare(self) -> None:
        """Capture what `step` will need, and read prompts of all lengths once, so that the first request is no slower
        than the second."""
        if self.shapes is None:
            return
        with torch.inference_mode():
            self.shapes.prepare("frames", [(rows, length) for rows in self._sizes for length in self._lengths])
            for length in self._lengths:
                prompt = torch.zeros(self._codebooks + 1, length, dtype=torch.int64)
                self._step.read(prompt, 0, 0)
                self._step.read(prompt, 0, length - length // 8)  # as a text is, after its voice

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
        room = self.length - utterance.prompt.size(1)
        limit = min(utterance.max_new_tokens or room, room)
        with self._lock:
            if not self._free:
                raise QueueFull(f"All {self._rows} places of the speech model are taken; try again later.")
            row = min(self._free)  # low rows side by side can be read without copying
            self._free.remove(row)
        return Handle(row, utterance, key_of(utterance.sampling.drawn()), limit)

    def close(self, handle: Handle) -> None:
        """A second time it does nothing."""
        with self._lock:
            if not handle.closed:
                handle.closed = True
                self._free.add(handle.row)

    def step(self, handles: Sequence[Handle]) -> list[Frame]:
        """One frame for each handle, in order; each handle once. One that is closed or at its end has nothing more."""
        if len(set(handles)) != len(handles):
            raise ValueError("a step takes each handle once")
        going = [handle for handle in handles if not (handle.closed or handle.stop)]
        with torch.inference_mode():
            tokens = self._as_they_are(going) if self.shapes is None else self._together(going, self.shapes)
        return [
            self._frame(handle, tokens[handle]) if handle in tokens else Frame(None, handle.stop) for handle in handles
        ]

    def _together(self, handles: list[Handle], shapes: Shapes[tuple[int, int]]) -> dict[Handle, Tensor]:
        """By one replay. A prompt is read up to its last column, which is then what a going sequence's frame is."""
        if not handles:
            return {}
        for handle in handles:
            prompt = handle.utterance.prompt[:, :-1]
            if not handle.made and (start := self._begin(handle)) < prompt.size(1):
                self._step.read(prompt, handle.row, start)
        rows = next(size for size in self._sizes if all(handle.row < size for handle in handles))
        length = next(length for length in self._lengths if all(handle.position < length for handle in handles))
        step = shapes.of((rows, length))
        active = torch.zeros(rows, dtype=torch.bool)
        active[[handle.row for handle in handles]] = True
        self._active[:rows].copy_(sent(active, self._device))
        frames = step().cpu()
        return {handle: frames[handle.row] for handle in handles}

    def _shaped(self, capture: Capture) -> Shapes[tuple[int, int]]:
        def make(shape: tuple[int, int]) -> Step:
            rows, length = shape
            self._active.zero_()
            return lambda: self._step.advance(slice(0, rows), self._active[:rows], length)

        return Shapes(make, capture)

    def _as_they_are(self, handles: list[Handle]) -> dict[Handle, Tensor]:
        """The joining ones from what is known once their prompt has been read, then the going ones."""
        joining = [handle for handle in handles if not handle.made]
        going = sorted((handle for handle in handles if handle.made), key=lambda handle: handle.row)
        parts = []
        if joining:
            read = [self._step.read(handle.utterance.prompt, handle.row, self._begin(handle)) for handle in joining]
            rows, active = self._rows_of(joining)
            parts.append(self._step.finish(rows, active, torch.cat(read)))
        if going:
            rows, active = self._rows_of(going)
            parts.append(self._step.advance(rows, active, 1 + max(handle.position for handle in going)))
        return dict(zip([*joining, *going], torch.cat(parts).cpu(), strict=True)) if parts else {}

    def _rows_of(self, handles: list[Handle]) -> tuple[slice | Tensor, Tensor]:
        rows = [handle.row for handle in handles]
        active = torch.ones(len(rows), dtype=torch.bool, device=self._device)
        if rows == [*range(rows[0], rows[-1] + 1)]:
            return slice(rows[0], rows[-1] + 1), active
        return torch.tensor(rows, device=self._device), active

    def _begin(self, handle: Handle) -> int:
        """Make the row this sequence's. How many columns of its prompt, not all, are in the cache now."""
        prompt, sampling = handle.utterance.prompt, handle.utterance.sampling
        rules = (max(sampling.temperature, LEAST_TEMPERATURE), sampling.top_p, sampling.repetition_penalty)
        rounded = torch.tensor(rules, dtype=self._family.rules).tolist()
        self._step.state.begin(handle.row, handle.key, prompt, rounded)
        preamble = min(handle.utterance.preamble, handle.position)
        if preamble:
            self._prefixes.read(prompt[:, :preamble], handle.row)
        return preamble

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
