"""When the words of a text are said, as the decoder's attention has it: CTranslate2's alignment.

tokens of every line ─▶ align ─▶ seconds at which each begins ─▶ words with times ─▶ `words.spoken`
                          └────▶ how likely each is when nothing stands before the text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.whisper.device import storage
from workers.whisper.rest import SAMPLES_PER_FRAME
from workers.whisper.segments import TIMESTAMP_SECONDS, Span
from workers.whisper.units import Unit, Word
from workers.whisper.words import Aligned, Interval, spoken

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer


def words_of(
    model: WhisperModel, tokenizer: Tokenizer, unit: Unit, spans: tuple[Span, ...], sounds: Sequence[Interval]
) -> list[tuple[Word, ...]]:
    """The words of each span, by the decoder's attention and by what can be heard.

    sounds: seconds between which something can be heard.
    """
    lines = text_tokens(spans, tokenizer)
    tokens = [token for line in lines for token in line]
    if not tokens:
        return [() for _ in lines]
    found = aligned(model, tokenizer, unit, tokens)
    starts = dict(reversed(found.alignments))
    times = [starts[index] * TIMESTAMP_SECONDS for index in range(len(tokens) + 1)]
    timed = []
    at = 0
    for line in lines:
        words = tokenizer.split_to_word_tokens(line)
        timed.append(list(_with_times(words, times[at:], found.text_token_probs[at:])))
        at += len(line)
    return spoken(timed, sounds, times[-1])


def aligned(model: WhisperModel, tokenizer: Tokenizer, unit: Any, tokens: list[int]) -> Any:
    """CTranslate2's alignment of a text with a unit's sound, and how likely each of its tokens is without hints."""
    frames = len(unit.audio) // SAMPLES_PER_FRAME
    [found] = model.model.align(storage([unit.encoded]), tokenizer.sot_sequence, [tokens], frames)
    return found


def text_tokens(spans: tuple[Span, ...], tokenizer: Any) -> list[list[int]]:
    """Each span's tokens without the timestamps."""
    return [[token for token in span.tokens if token < tokenizer.eot] for span in spans]


def _with_times(words: tuple[list[str], list[list[int]]], times: list[float], probabilities: Any) -> Iterator[Aligned]:
    """words: texts, and the tokens of each. times: seconds of the tokens and of what follows them."""
    at = 0
    for text, tokens in zip(*words, strict=True):
        end = at + len(tokens)
        yield Aligned(text, times[at], times[end], float(np.mean(probabilities[at:end])))
        at = end
