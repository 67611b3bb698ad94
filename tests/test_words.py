"""Words lie where they are said: the alignment's times and what can be heard, put together; without a model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.audio import SAMPLE_RATE, Audio
from workers.whisper.silences import sounding
from workers.whisper.units import Word
from workers.whisper.words import Aligned, Interval, says_something, spoken


def aligned(text: str, *times: float) -> list[Aligned]:
    """Tokens that follow each other without gaps; `|` parts them. times: of each, and of the end."""
    return [Aligned(token, *pair, 0.9) for token, pair in zip(text.split("|"), pairwise(times), strict=True)]


def heard(line: list[Aligned], *sounds: Interval) -> list[tuple[str, float, float]]:
    [words] = spoken([line], sounds, line[-1].end)
    return [(word.word, round(word.start, 3), round(word.end, 3)) for word in words]


def test_silence_between_words_is_nobodys() -> None:
    line = aligned(" here| a| pendulum|.", 0.62, 0.94, 1.92, 2.24, 2.66)
    assert heard(line, (0.4, 1.07), (1.8, 2.51)) == [
        (" here", 0.62, 1.07),
        (" a", 1.8, 1.92),
        (" pendulum.", 1.92, 2.51),
    ]


def test_a_full_stop_is_its_words_and_so_is_the_sound_up_to_the_silence() -> None:
    line = aligned(" failed|.| No| matter|,| try", 1.9, 2.5, 3.16, 3.6, 4.0, 4.6, 5.2)
    assert heard(line, (1.89, 2.78), (3.55, 4.16), (4.93, 5.3)) == [
        (" failed.", 1.89, 2.78),
        (" No", 3.55, 3.61),
        (" matter,", 3.61, 4.16),
        (" try", 4.93, 5.3),
    ]


def test_the_last_word_has_the_end_of_its_sound_without_a_full_stop_too() -> None:
    """The alignment ends before the word does; in sound that goes on for longer, something else is heard."""
    line = aligned(" here| a| pendulum", 0.68, 0.98, 2.1, 2.44)
    assert heard(line, (0.4, 1.2), (2.04, 2.7))[-1] == (" pendulum", 2.1, 2.7)
    assert heard(line, (0.4, 1.2), (2.04, 3.0))[-1] == (" pendulum", 2.1, 2.44)


def test_what_sounds_on_after_a_word_is_not_its_own() -> None:
    """Such as music that sets in while Whisper's full stop lasts."""
    line = aligned(" his| gospel|.", 12.24, 12.58, 13.26, 14.06)
    assert heard(line, (7.86, 13.68)) == [(" his", 12.24, 12.58), (" gospel.", 12.58, 13.56)]


def test_a_word_that_begins_in_the_end_of_the_sound_before_follows_the_pause() -> None:
    """Also where it hardly reaches beyond, as long as no sentence ends there."""
    after = [(" apostle", 1.1, 1.73), (" of", 2.23, 2.3), (" the", 2.3, 2.5)]
    assert heard(aligned(" apostle| of| the", 1.1, 1.6, 2.3, 2.5), (0.1, 1.73), (2.23, 2.5)) == after
    assert [word[1] for word in heard(aligned(" apostle| of| the", 1.1, 1.6, 2.1, 2.5), (0.1, 1.73), (2.23, 2.5))] == [
        1.1,
        2.23,
        2.29,
    ]
    assert heard(aligned(" it|.| The", 1.6, 1.7, 2.2, 2.5), (0.1, 1.73), (2.23, 2.5))[0] == (" it.", 1.6, 1.73)


def test_words_that_were_put_at_one_place_share_it() -> None:
    words = heard(aligned(" a| b| c| d", 1.0, 1.0, 1.0, 1.0, 1.3), (0.5, 1.5))
    assert [word[1:] for word in words[:3]] == [(1.0, 1.06), (1.06, 1.12), (1.12, 1.18)]
    assert words[3] == (" d", 1.18, 1.5)


def test_punctuation_stands_at_the_word_that_it_belongs_to() -> None:
    line = aligned(' He| said|,| "|Yes|!"| -| No|…', 0, 1, 2, 2.5, 3, 4, 5, 6, 7, 8)
    assert [word[0] for word in heard(line)] == [" He", " said,", ' "Yes!"', " - No…"]
    assert [word[0] for word in heard(aligned("¿|Qué|?", 0, 1, 2, 3))] == ["¿Qué?"]
    assert heard(aligned("...| -", 0, 1, 2)) == []


def test_lines_keep_their_words() -> None:
    lines = [aligned(" a| b|.", 0, 1, 2, 3), [], aligned("...", 3, 4), aligned(" c", 4, 5)]
    assert [[word.word for word in words] for words in spoken(lines, [], 5.0)] == [[" a", " b."], [], [], [" c"]]


SOUNDS = st.lists(st.floats(0, 30), min_size=0, max_size=10, unique=True).map(
    lambda edges: [(a, b) for a, b in zip(*[iter(sorted(edges))] * 2, strict=False) if b - a >= 0.06]
)
TEXTS = st.sampled_from([" a", " pendulum", "x", ".", ",", " -", ' "', "あ", "。", "..."])
STEPS = st.lists(st.tuples(TEXTS, st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.3, 1.5])), max_size=25)


@given(st.lists(STEPS, min_size=1, max_size=4), SOUNDS)
def test_every_word_has_a_length_and_lies_in_sound_in_order(
    steps: list[list[tuple[str, float]]], sounds: list[Interval]
) -> None:
    """Whatever the alignment says; no letter is lost."""
    at, lines = 0.0, []
    for line in steps:
        tokens = []
        for text, seconds in line:
            tokens.append(Aligned(text, at, at + seconds, 0.5))
            at += seconds
        lines.append(tokens)
    found = spoken(lines, sounds, at)
    for tokens, words in zip(lines, found, strict=True):
        whole = "".join(token.text for token in tokens)
        assert "".join(word.word for word in words) == (whole if says_something(whole) else "")
        assert all(says_something(word.word) for word in words)
    every = [word for words in found for word in words]
    assert all(word.end - word.start > 0.002 for word in every)
    assert all(one.end <= other.start + 1e-9 for one, other in pairwise(every))
    if sounds:
        assert max((outside(word, sounds) for word in every), default=0) <= 0.3


def outside(word: Word, sounds: list[Interval]) -> float:
    """Seconds that a word lies beyond the sound that is nearest."""
    return min(max(start - word.start, word.end - end, 0.0) for start, end in sounds)


def tone(*parts: tuple[float, float]) -> Audio:
    """(seconds, amplitude) one after the other."""
    levels = np.concatenate([np.full(int(seconds * SAMPLE_RATE), level) for seconds, level in parts])
    audio: Audio = (levels * np.sin(np.arange(len(levels)) * 0.3)).astype(np.float32)
    return audio


@pytest.mark.parametrize("hiss", [0.0, 1e-4, 1e-3])
def test_what_can_be_heard_is_what_is_louder_than_silence(hiss: float) -> None:
    """A soft voice too; not the gap within a word, and not what the voice detector leaves out."""
    audio = tone((0.5, 0), (1, 0.3), (0.5, 0), (0.4, 0.3), (0.1, 0), (0.4, 0.02), (1, 0), (0.5, 0.1))
    audio += hiss * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    assert np.allclose(sounding(audio, None), [(0.5, 1.5), (2.0, 2.9), (3.9, 4.4)], atol=0.03)
    assert np.allclose(sounding(audio, [(0.2, 1.2), (2.1, 4.2)]), [(0.5, 1.2), (2.1, 2.9), (3.9, 4.2)], atol=0.03)
    assert sounding(audio, [(3.1, 3.5)]) == [(3.1, 3.5)]


@pytest.mark.parametrize("hops", [1, 3, 5, 8])
def test_a_soft_sound_of_any_length_can_be_heard(hops: int) -> None:
    assert sounding(tone((hops / 50, 1e-3)), None) == [(0.0, hops / 50)]


def test_in_noise_that_is_nearly_as_loud_the_voice_detector_alone_knows() -> None:
    audio = tone((1, 0.3), (1, 0.1), (1, 0.3))
    assert np.allclose(sounding(audio, None), [(0, 3)], atol=0.03)
    assert sounding(audio, [(0.0, 1.0), (2.0, 3.0)]) == [(0.0, 1.0), (2.0, 3.0)]
    assert sounding(audio[:100], None) == []
