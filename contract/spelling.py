"""What a name was perhaps meant to be: pure, for settings and flags that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Collection

MAX_MEANT = 3
CLOSE = 0.86
"""Least likeness of a misspelling; equal names have 1. `MEDIA_ROOT` is 0.95 like `MEDIA_ROOTS`. `HOSTNAME`, which is no
mistake, is 0.67 like `HOST`."""


def meant(name: str, known: Collection[str]) -> list[str]:
    """The known names that this one is most like, best first; none for a name of something else.

    A name is like a known one when it differs in the case of letters only, when it is two or more of its words in any
    order, when it has all of its words and more of them behind the first, or when few letters differ.
    """
    upper = name.upper().replace("-", "_")
    first, *others = upper.split("_")
    words = {first, *others}
    same = [other for other in known if other == upper]
    parts = [other for other in known if len(words) > 1 and words <= set(other.split("_"))]
    more = [
        other for other in known if "_" in other and other.startswith(f"{first}_") and words >= set(other.split("_"))
    ]
    return (same or parts or more or difflib.get_close_matches(upper, known, MAX_MEANT, CLOSE))[:MAX_MEANT]
