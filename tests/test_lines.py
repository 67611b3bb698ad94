"""A line that Whisper wrote across the pause between two sentences becomes two, and no other is touched."""

from __future__ import annotations

import pytest

from workers.whisper.lines import crosses, parted
from workers.whisper.units import Segment, Word


def line(text: str, *starts: float) -> Segment:
    """Words of 0.4 s that begin at these seconds; a space stands before each."""
    words = tuple(Word(at, at + 0.4, f" {word}", 0.9) for word, at in zip(text.split("|"), starts, strict=True))
    return Segment(words[0].start, words[-1].end, "".join(word.word for word in words), words)


SAID = line("your|country.|Mr.|Quilter|is", 0.0, 0.5, 2.0, 2.5, 3.0)


def test_a_line_is_parted_at_the_pause_after_a_sentence() -> None:
    first, second = parted(SAID, [(0.9, 1.9)])
    assert (first.text, first.start, first.end) == (" your country.", 0.0, 0.9)
    assert (second.text, second.start, second.end) == (" Mr. Quilter is", 2.0, 3.4)
    assert first.words and second.words and (*first.words, *second.words) == SAID.words


def test_a_pause_that_is_a_little_beside_the_words_parts_them_too() -> None:
    assert len(parted(SAID, [(0.7, 1.6)])) == len(parted(SAID, [(1.1, 2.2)])) == 2


@pytest.mark.parametrize(
    ("said", "pauses"),
    [
        (SAID, []),
        (SAID, [(3.4, 4.4)]),
        (line("ask|not|what", 0.0, 0.5, 2.0), [(0.9, 1.9)]),
        (line("Mr.|Quilter|said", 0.0, 0.5, 2.0), [(0.9, 1.9)]),
    ],
    ids=["no pause", "after it", "no sentence", "within a sentence"],
)
def test_any_other_line_stays_whole(said: Segment, pauses: list[tuple[float, float]]) -> None:
    assert parted(said, pauses) == [said]


@pytest.mark.parametrize("text", ["Yes. And you?", "そう。でも", "¿Qué? Nada", "«Ja.» Und", "कहा। फिर"])
def test_two_sentences_around_a_pause_are_looked_at_word_by_word(text: str) -> None:
    assert crosses(0.0, 5.0, text, [(2.0, 3.0)])
    assert not crosses(0.0, 5.0, text, [(0.1, 0.6), (4.8, 5.5)])


@pytest.mark.parametrize("text", ["ask not what", "in 3.5 seconds", "All is well."])
def test_one_sentence_is_not(text: str) -> None:
    assert not crosses(0.0, 5.0, text, [(2.0, 3.0)])
