"""How far a transcript is from the truth: word and character error rates, and where its words begin."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any


def edit_distance(said: Sequence[str], heard: Sequence[str]) -> int:
    """Levenshtein: substitutions, insertions and deletions that turn one into the other."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (one != other))
    return row[-1]


def words(text: str) -> list[str]:
    """Case and punctuation do not count; accents do."""
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold())


def word_error_rate(said: str, heard: str) -> float:
    return edit_distance(words(said), words(heard)) / len(words(said))


def character_error_rate(said: str, heard: str) -> float:
    return edit_distance("".join(words(said)), "".join(words(heard))) / len("".join(words(said)))


def start_errors(said: Sequence[dict[str, Any]], heard: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds between the true and the heard start of every word that was recognised."""
    left, right = (["".join(words(word["word"])) for word in side] for side in (said, heard))
    matches = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    pairs = [(match.a + k, match.b + k) for match in matches for k in range(match.size)]
    return [abs(said[i]["start"] - heard[j]["start"]) for i, j in pairs]
