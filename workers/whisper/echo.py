"""Whisper sometimes writes its hints instead of what it hears, above all hints that loop: lines that say so; pure.

hints    Anna, Berta, Carla, Anna, Berta, Carla, …
lines    "Berta, Carla, Anna."    "and so I asked Anna"
          the hints themselves     a name of theirs in what somebody says
"""

from __future__ import annotations

import unicodedata

_RUN = 8
"""A line repeats the hints where it shares so many letters in a row with them."""
_SHARE = 0.6
"""A line with this share of its letters in such runs is nothing but the hints; people say a name among other words."""


def echoes(line: str, hints: str) -> bool:
    """Whether a line may be nothing but the hints, a part of them or their repetition; spelling does not count."""
    said, hinted = _letters(line), _letters(hints)
    if not said or not hinted:
        return False
    hinted *= 1 + max(2 * _RUN, len(said)) // len(hinted) + 1
    if len(said) <= _RUN:
        return said in hinted
    known = {hinted[at : at + _RUN] for at in range(len(hinted) - _RUN + 1)}
    covered = [False] * len(said)
    for at in range(len(said) - _RUN + 1):
        if said[at : at + _RUN] in known:
            covered[at : at + _RUN] = [True] * _RUN
    return sum(covered) >= _SHARE * len(said)


def once(hints: str) -> str:
    """Hints that say the same words again and again, said once; what is cut off at the end is of the next time."""
    words = hints.split()
    for period in range(1, len(words) // 2 + 1):
        again = words[period:]
        if again[:-1] == words[: len(again) - 1] and words[len(again) - 1].startswith(again[-1]):
            return " ".join(words[:period])
    return hints


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
