"""Answers to pictures that the encoder has seen, token by token, as long as it takes.

    encoder's output ─▶ Desk for short answers ─▶ step, step, … ─▶ done? ─▶ tokens
                            └▶ longer than it holds: a longer Desk takes over what is on it

On a GPU every step is a CUDA graph, recorded when the model is loaded, for each power of two of pictures, each length
of answers and each of sources; what is asked is filled up to one of these. On the CPU a desk is made for each batch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import structlog
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.florence.beams import Beams, Rules, Search
from workers.florence.decoder import Decoder, Memory
from workers.runtime.cuda_graphs import sizes_up_to
from workers.runtime.failing import ran_out

log = structlog.get_logger()

SHORT = 64
"""Tokens of the shortest answers that there is a desk for."""
_LONGER = 4
"""Each desk holds answers so many times as long as the one before."""
_PATIENCE = 4
"""Steps on a GPU before anybody waits for it to look whether they were enough."""
_QUESTION = 48
"""Tokens of a question that fit beside the picture into the shorter of the two sources."""
_ALIGNED = 16
"""Attention on a GPU copies a mask whose rows are no multiple of this."""


@dataclasses.dataclass(frozen=True, slots=True)
class Desk:
    """What a batch's answers are written on."""

    memory: Memory
    beams: Beams

    def part(self, pictures: int, source: int) -> Desk:
        return Desk(self.memory.part(pictures, source), self.beams.part(pictures))

    def take(self, other: Desk) -> None:
        self.memory.take(other.memory)
        self.beams.take(other.beams)


Shape = tuple[int, int, int]
"""Of a desk: pictures, tokens of their sources, tokens of their answers."""


Step = Callable[[], None]
"""Writes one token more of each answer."""


class Writer:
    """Writes with the decoder of one model."""

    def __init__(self, model: Any, rules: Rules, device: torch.device) -> None:
        self._rules, self._device = rules, device
        self._decoder = Decoder(model)
        self._search = Search(rules, self._decoder.vocabulary, device)
        self._lengths = [*_lengths(rules.longest)]
        self._recorded: dict[Shape, Step] = {}
        self._whole: dict[int, Desk] = {}
        self._counts, self._sources, self._patience = [0], (0, 0), 1

    def record(self, recorded: Callable[[Step], Step], pictures: int, seen: int, source: int) -> None:
        """Be ready for batches of up to so many pictures on a GPU.

        recorded: `CudaGraphs.recorded`, or what does as it does. seen: tokens of a picture. source: of a picture with
        the longest question. Raises: torch.OutOfMemoryError.
        """
        self._counts, self._sources = sizes_up_to(pictures), (min(_aligned(seen + _QUESTION), source), source)
        self._patience = _PATIENCE
        self._whole = {length: self._desk(pictures, source, length) for length in self._lengths}
        try:
            self._recorded = dict(self._steps(recorded))
        except Exception as exc:
            self._whole = {}
            if ran_out(exc):
                raise
            log.warning("graphs_not_recorded", worker="florence", error=str(exc))

    def _steps(self, recorded: Callable[[Step], Step]) -> Iterator[tuple[Shape, Step]]:
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):  # others plan anew for each shape
            for shape in itertools.product(self._counts, dict.fromkeys(self._sources), self._lengths):
                pictures, source, length = shape
                desk = self._whole[length].part(pictures, source)
                desk.beams.begin(self._rules.start, pictures)
                yield shape, recorded(self._step(desk))

    def write(self, encoded: Tensor, there: Tensor) -> list[list[int]]:
        """The tokens of each answer, without those that start, end and fill it.

        encoded: (pictures, tokens, width), the encoder's output. there: bool, (pictures, tokens).
        """
        asked = len(encoded)
        shapes = [self._shape(asked, encoded.size(1), length) for length in self._lengths]
        desk = self._at(shapes[0])
        desk.memory.clear()
        desk.memory.source_mask.zero_()
        self._decoder.listen(encoded, there, desk.memory.part(asked, shapes[0][1]))
        desk.beams.begin(self._rules.start, asked)
        written = 1
        for shape in shapes:
            if shape[-1] > shapes[0][-1]:
                longer = self._at(shape)
                longer.take(desk)
                desk = longer
            step = self._recorded.get(shape) or self._step(desk)
            while written < min(shape[-1], self._rules.longest):
                step()
                written += 1
                if written % self._patience == 0 and self._search.done(desk.beams):
                    return self._read(desk, asked)
        return self._read(desk, asked)

    def _read(self, desk: Desk, asked: int) -> list[list[int]]:
        """The best answers. Waits for the device."""
        ends = frozenset(self._rules.ends)
        answers = []
        for answer in desk.beams.ended[:asked, 0, 1 : self._rules.longest].tolist():
            end = next((place for place, token in enumerate(answer) if token in ends), len(answer))
            answers.append(answer[:end])
        return answers

    def _shape(self, pictures: int, source: int, length: int) -> Shape:
        if not self._recorded or pictures > self._counts[-1] or source > self._sources[-1]:
            return pictures, source, length
        pictures = next(count for count in self._counts if pictures <= count)
        return pictures, next(tokens for tokens in self._sources if source <= tokens), length

    def _at(self, shape: Shape) -> Desk:
        pictures, source, length = shape
        if shape in self._recorded:
            return self._whole[length].part(pictures, source)
        return self._desk(*shape)

    def _desk(self, pictures: int, source: int, length: int) -> Desk:
        beams = self._rules.beams
        memory = self._decoder.memory(pictures, beams, length, source)
        return Desk(memory, Beams.empty(pictures, beams, length, self._device))

    def _step(self, desk: Desk) -> Step:
        def step() -> None:
            beams = desk.beams
            last = beams.tokens.index_select(2, beams.at)[..., 0]
            logits = self._decoder.logits(last, beams.at, beams.seen(), desk.memory)
            self._search.step(logits, beams)

        return step


def _lengths(longest: int) -> Iterator[int]:
    length = SHORT
    while length < longest:
        yield length
        length *= _LONGER
    yield _aligned(longest)


def _aligned(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED
