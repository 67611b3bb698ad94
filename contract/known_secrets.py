"""Secrets that this process knows by their value, such as a proxy's password, in whatever form a library shows them."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

LEAST = 4
"""Characters; what is shorter stands in many words, and hiding it would show it."""
LEAST_WITHIN = 8
"""What is shorter may be a word, as `proxy` is, and is hidden only where it stands alone."""

_forms: set[str] = set()
_patterns: list[re.Pattern[str]] = []
"""One for all forms; none while no secret is known."""


def hide(secrets: Iterable[str]) -> None:
    """Take these out of all that `without_known` is given from now on."""
    _forms.update(form for secret in secrets for form in _written(secret) if len(form) >= LEAST)
    longest_first = sorted(_forms, key=len, reverse=True)
    _patterns[:] = [re.compile("|".join(map(_matched, longest_first)), re.IGNORECASE)] if longest_first else []


def without_known(text: str, instead: str) -> str:
    """A text with something instead of each known secret."""
    for pattern in _patterns:
        text = pattern.sub(lambda _: instead, text)
    return text


def _matched(form: str) -> str:
    """The regular expression of a form."""
    escaped = re.escape(form)
    return escaped if len(form) >= LEAST_WITHIN else rf"(?<!\w){escaped}(?!\w)"


def _written(secret: str) -> Iterator[str]:
    """How it may be written: in a URL, in Python, in JSON, in a header."""
    for plain in (secret, unquote(secret)):
        yield from (
            plain,
            quote(plain),
            quote(plain, safe=""),
            quote_plus(plain),
            repr(plain)[1:-1],
            json.dumps(plain)[1:-1],
        )
        content = plain.encode(errors="surrogateescape")
        yield from (encode(content).decode().rstrip("=") for encode in (b64encode, urlsafe_b64encode))
