"""What of a text that is still being spoken may already be believed: pure.

    I have                ─┐
    I have a cream         ├─ two successive hypotheses agree on a beginning: it is stable from then on
    I have a dream that    ─┘

LocalAgreement-2 (Liu et al. 2020, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial
Hypothesis Selection"): hypotheses of a growing recording differ most at their end, where a word was cut in two.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Tentative:
    """A text so far. The first `stable` characters stay as they are until the utterance is final."""

    text: str = ""
    stable: int = 0


class Agreement:
    """The hypotheses of one utterance. spaced: its language has spaces between words; else each character is one."""

    def __init__(self, *, spaced: bool) -> None:
        self._space = " " if spaced else ""
        self._stable: list[str] = []
        self._latest: list[str] = []

    def add(self, hypothesis: str) -> Tentative:
        """Take in the next hypothesis, of the same utterance and more of it."""
        words = hypothesis.split() if self._space else list("".join(hypothesis.split()))
        rest = words[_end_of(self._stable, words) :]
        agreed = _common(self._latest, rest)
        self._stable += rest[:agreed]
        self._latest = rest[agreed:]
        stable = self._space.join(self._stable)
        return Tentative(self._space.join([*self._stable, *self._latest]), len(stable))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if _bare(a) != _bare(b)), min(len(one), len(other)))


def _end_of(beginning: Sequence[str], words: Sequence[str]) -> int:
    """How many words stand for `beginning`, by the fewest substitutions, insertions and deletions (Levenshtein)."""
    row = list(range(len(words) + 1))
    for i, said in enumerate(beginning, 1):
        previous, row[0] = row[0], i
        for j, word in enumerate(words, 1):
            cost = previous + (_bare(said) != _bare(word))
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, cost)
    least = min(row)
    return max(j for j, cost in enumerate(row) if cost == least)


def _bare(word: str) -> str:
    """Case and punctuation come and go with what follows."""
    return re.sub(r"\W", "", word).casefold() or word
