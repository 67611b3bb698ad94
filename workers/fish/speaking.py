"""A text being spoken, piece by piece, in one voice.

A voice that was given stands before every piece. One that nobody gave is kept by giving each piece what was said before
it as its reference. Pieces have seeds of their own, which follow from the text's, so a second attempt says the same.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.base import Context, Run
from workers.fish.delivery import Delivery
from workers.fish.prompt import Spoken
from workers.fish.sampling import Sampling
from workers.fish.sentences import Piece
from workers.fish.synthesis import Saying, Synthesis

VOICE_SECONDS = 20.0
"""Seconds of earlier speech that stand before the next piece. More makes every frame dearer and the voice no better."""

_FRAMES_A_BYTE = 1.5
"""English text takes about so many frames a byte. A piece takes at least as many, so this tells how far it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Manner:
    """How a text is said. sampling: with the text's seed. max_new_tokens: for each piece."""

    sampling: Sampling
    max_new_tokens: int

    def of_piece(self, number: int) -> Sampling:
        return dataclasses.replace(self.sampling, seed=((self.sampling.seed or 0) + number) % 2**63)


@dataclasses.dataclass(slots=True)
class Voice:
    """spoken: of the next piece, as given; if none were, what was said so far, of at most `longest` frames."""

    spoken: list[Spoken]
    longest: int
    given: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.given = bool(self.spoken)

    def heard(self, text: str, codes: list[Tensor]) -> None:
        room = self.longest - sum(one.codes.shape[1] for one in self.spoken)
        if self.given or not codes or (self.spoken and len(codes) > room):
            return
        self.spoken = [*self.spoken, Spoken(text, torch.cat(codes[:room], dim=1))]


class Progress:
    """How far a text is: by the bytes that were said, and within a piece by the frames that it may take."""

    def __init__(self, ctx: Context, pieces: Sequence[Piece]) -> None:
        self._ctx = ctx
        self._sizes = [len(piece.text.encode()) for piece in pieces]
        self._piece, self._frames = 0, 0
        self._began = time.monotonic()

    def frame(self) -> None:
        self._frames += 1
        size = self._sizes[self._piece]
        said = sum(self._sizes[: self._piece]) + min(self._frames / _FRAMES_A_BYTE, 0.95 * size)
        fraction = said / sum(self._sizes)
        self._ctx.progress(fraction, (time.monotonic() - self._began) * (1 / fraction - 1))

    def next_piece(self) -> None:
        self._piece, self._frames = self._piece + 1, 0


@dataclasses.dataclass(frozen=True, slots=True)
class Speaker:
    """Speaks texts in one voice and manner, for the task of a context."""

    synthesis: Synthesis
    voice: Voice
    manner: Manner
    ctx: Context

    def check(self, pieces: Sequence[Piece]) -> None:
        """Whether each piece fits into the model, before any is heard. Raises: TextTooLong, InvalidInput."""
        for piece in pieces:
            frames = min(self.manner.max_new_tokens, round(len(piece.text.encode()) * _FRAMES_A_BYTE))
            self.synthesis.check(self.synthesis.prompt(piece.text, self.voice.spoken), frames)

    def speak(self, pieces: Sequence[Piece], delivery: Delivery, progress: Progress) -> Run:
        """Yields an answer for each frame. Returns whether `max_new_tokens` cut a piece short.

        The next frame is asked for before one is waited for, so that the model makes it while this one's sound is told.
        Behind the last frame there is one more asked for, and nothing is made for it.
        """
        cut = False
        for number, piece in enumerate(pieces):
            saying, stop = self._begin(piece, number), None
            try:
                ahead = self.ctx.ask(saying)
                while stop is None:
                    answer, ahead = ahead, self.ctx.ask(saying)
                    advance = yield answer
                    stop = advance.stop
                    if advance.sound is not None:
                        delivery.add(advance.sound)
                    progress.frame()
            finally:
                self.synthesis.close(saying)
            delivery.end_piece(piece.pause)
            progress.next_piece()
            self.voice.heard(piece.text, saying.codes)
            cut = cut or stop == "length"
        return cut

    def _begin(self, piece: Piece, number: int) -> Saying:
        prompt = self.synthesis.prompt(piece.text, self.voice.spoken)
        needed = min(self.manner.max_new_tokens, self.synthesis.length // 2)
        given = self.voice.given
        if not given and self.synthesis.length - prompt.columns < needed:
            prompt = self.synthesis.prompt(piece.text, [])  # better in another voice than not at all
        return self.synthesis.say(prompt, self.manner.of_piece(number), self.manner.max_new_tokens, again=given)
