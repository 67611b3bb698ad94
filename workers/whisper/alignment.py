"""When the words of a text are said, as the decoder's attention has it: CTranslate2's alignment.

tokens of every line ─▶ align ─▶ seconds at which each begins ─▶ words with times ─▶ `words.spoken`
                          └────▶ how likely each is when nothing stands before the text
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.whisper.encoded import joined
from workers.whisper.rest import frames
from workers.whisper.segments import TIMESTAMP_SECONDS, Span
from workers.whisper.units import Unit, Word
from workers.whisper.words import Aligned, spoken

if TYPE_CHECKING:
    from faster_whisper import WhisperModel


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """What is written of a unit that is encoded. tokenizer: of its language and task."""

    unit: Unit
    spans: tuple[Span, ...]
    tokenizer: Any

    @property
    def lines(self) -> list[list[int]]:
        """Each span's tokens without the timestamps."""
        return [[token for token in span.tokens if token < self.tokenizer.eot] for span in self.spans]

    @property
    def tokens(self) -> list[int]:
        return [token for line in self.lines for token in line]


def align(model: WhisperModel, texts: Sequence[Text], *, alone: bool) -> list[Any]:
    """CTranslate2's alignment of each text with its sound; None for one without words.

    alone: one after the other; else those of one language and task together.
    """
    found: list[Any] = [None] * len(texts)
    wanted = sorted((index for index, text in enumerate(texts) if text.tokens), key=lambda index: _start(texts[index]))
    for _, group in groupby(wanted, key=lambda index: index if alone else _start(texts[index])):
        indices = list(group)
        some = [texts[index] for index in indices]
        rows = joined([text.unit.encoded for text in some if text.unit.encoded is not None])
        start = some[0].tokenizer.sot_sequence
        aligned = model.model.align(rows, start, [text.tokens for text in some], [frames(text.unit) for text in some])
        for index, one in zip(indices, aligned, strict=True):
            found[index] = one
    return found


def words_of(text: Text, found: Any) -> list[tuple[Word, ...]]:
    """The words of each span, by the decoder's attention and by what can be heard. found: by `align`."""
    lines = text.lines
    starts = dict(reversed(found.alignments))
    times = [starts[index] * TIMESTAMP_SECONDS for index in range(sum(map(len, lines)) + 1)]
    timed = []
    at = 0
    for line in lines:
        words = text.tokenizer.split_to_word_tokens(line)
        timed.append(list(_with_times(words, times[at:], found.text_token_probs[at:])))
        at += len(line)
    return spoken(timed, text.unit.sounds, times[-1])


def _start(text: Text) -> list[int]:
    start: list[int] = text.tokenizer.sot_sequence
    return start


def _with_times(words: tuple[list[str], list[list[int]]], times: list[float], probabilities: Any) -> Iterator[Aligned]:
    """words: texts, and the tokens of each. times: seconds of the tokens and of what follows them."""
    at = 0
    for text, tokens in zip(*words, strict=True):
        end = at + len(tokens)
        yield Aligned(text, times[at], times[end], float(np.mean(probabilities[at:end])))
        at = end
