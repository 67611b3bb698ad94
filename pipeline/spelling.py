"""What a name was perhaps meant to be: pure, for settings and flags that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Collection

MAX_MEANT = 3
CLOSE = 0.86
"""Of 1 for equal names: `MEDIA_ROOT` has 0.95 of `MEDIA_ROOTS`; `HOSTNAME`, which is no mistake, 0.67 of `HOST`."""


def meant(name: str, known: Collection[str]) -> list[str]:
    """Those of the known names that this one is most like, best first; none for a name of something else.

    That is: another case of letters, two or more of a known name's words in any order, such a name with words too many
    behind the first, or a slip of the pen.
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
