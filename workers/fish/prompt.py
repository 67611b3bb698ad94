"""A text to speak, and what was said in the same voice before, as the token grid that each family was trained on.

    1.5  [system: SYSTEM  (user: TEXT  assistant: <|voice|> CODES)…]  user: TEXT  assistant: <|voice|>
    S1   <|interleave|>  (<|speaker:0|> TEXT CODES <|im_end|>)…  <|speaker:0|> TEXT

Brackets stand around what is there only where something was said before. A grid is int64, (1 + C, T): row 0 holds
vocabulary ids, rows 1 to C the codes of what was said, 0 elsewhere. The pieces are tokenised one by one, as published.
One thing differs: a text's own `<|…|>` is read as plain letters, so that no text can end its turn or speak for another.

Source: `encode_tokens` and `generate_long` in fish_speech/models/text2semantic/inference.py and
fish_speech/conversation.py of fishaudio/fish-speech at v1.5.1 (58046ea); fish_speech/content_sequence.py of PyPI
fish-speech 0.1.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from contract.errors import InvalidInput

SYSTEM = "Speak out the provided text."


class Tokenizer(Protocol):
    """What is used of the package's FishTokenizer."""

    @property
    def semantic_begin_id(self) -> int: ...

    @property
    def semantic_end_id(self) -> int: ...

    def encode(self, s: str, allowed_special: bool | set[str] = True) -> list[int]: ...

    def get_token_id(self, token: str) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Spoken:
    """Something said in the voice wanted. codes: whole numbers, (at least C, frames), from the codec's encoder."""

    text: str
    codes: Tensor


class Grid:
    """A prompt under construction. preamble: its columns before the words of the last turn, which is the text's."""

    def __init__(self, tokenizer: Tokenizer, codebooks: int, codebook_size: int) -> None:
        self._tokenizer, self._codebooks, self._codebook_size = tokenizer, codebooks, codebook_size
        self._pieces: list[Tensor] = []
        self.preamble = 0

    def control(self, text: str) -> None:
        """The family's own words, with special tokens."""
        self._add(self._tokenizer.encode(text))

    def words(self, text: str) -> None:
        """What a person wrote. Raises: InvalidInput where nothing is left to say."""
        if not text:
            raise InvalidInput("The text holds nothing that can be spoken.", field="text")
        self.preamble = self.columns
        self._add(self._tokenizer.encode(text, allowed_special=False))

    def codes(self, codes: Tensor) -> None:
        """Raises: InvalidInput for codes of another codec."""
        codes = codes[: self._codebooks].to(torch.int64)
        known = codes.ndim == 2 and codes.size(0) == self._codebooks and codes.numel()
        if not known or codes.min() < 0 or codes.max() >= self._codebook_size:
            raise InvalidInput(
                f"A reference's codes must be {self._codebooks} rows of whole numbers from 0 to "
                f"{self._codebook_size - 1}, as this model's codec makes them.",
                field="references",
            )
        self._pieces.append(torch.cat([codes[:1] + self._tokenizer.semantic_begin_id, codes]))

    def _add(self, ids: list[int]) -> None:
        column = torch.zeros(self._codebooks + 1, len(ids), dtype=torch.int64)
        column[0] = torch.tensor(ids, dtype=torch.int64)
        self._pieces.append(column)

    @property
    def columns(self) -> int:
        return sum(piece.size(1) for piece in self._pieces)

    def joined(self) -> Tensor:
        return torch.cat(self._pieces, dim=1)


def fish_speech_15(grid: Grid, text: str, spoken: Sequence[Spoken]) -> None:
    from fish_speech.text import clean_text

    if spoken:
        grid.control("<|im_start|>system\n")
        grid.control(SYSTEM)
        grid.control("<|im_end|>")
    for one in spoken:
        _user_15(grid, clean_text(one.text))
        grid.codes(one.codes)
        grid.control("<|im_end|>")
    _user_15(grid, clean_text(text))


def _user_15(grid: Grid, text: str) -> None:
    """The user's turn, and the assistant's begun."""
    grid.control("<|im_start|>user\n")
    grid.words(text)
    grid.control("<|im_end|>")
    grid.control("<|im_start|>assistant\n")
    grid.control("<|voice|>")


def openaudio_s1(grid: Grid, text: str, spoken: Sequence[Spoken]) -> None:
    grid.control("<|interleave|>")
    for one in spoken:
        grid.control("<|speaker:0|>")
        grid.words(one.text)
        grid.codes(one.codes)
        grid.control("<|im_end|>")
    grid.control("<|speaker:0|>")
    grid.words(text)
