"""What people and programs call a language, as the code that Whisper has for it: pure.

    en-US, EN, english, inglés ─▶ en      zh-TW, 中文, cmn ─▶ zh      iw ─▶ he      auto, "", none ─▶ None: detected

Tags are read as in BCP 47, with the deprecated codes of ISO 639 and a POSIX locale's form; names in any language.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CODES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja
jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq
sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh
"""
LANGUAGES = frozenset(_CODES.split())
"""Whisper's codes; `yue` is known to large-v3 only."""

LONGEST = 100
"""Most characters of a tag or a name."""
_DETECT = frozenset({"", "auto", "autodetect", "automatic", "detect", "none", "null", "und", "undefined"})
_FARTHEST = 10
"""CLDR's distance from a language to one that stands for it: Swiss German is written as German, which is 8 away."""
_LOCALE = re.compile(r"([A-Za-z]{2,3}(?:[_-][A-Za-z0-9]+)*)(?:[.@].*)?")
"""`en_US.UTF-8` as much as `en-US`."""


@lru_cache(maxsize=1024)
def code_of(spelling: str) -> str | None:
    """Whisper's code, or None where the language is to be detected. Raises: LookupError, when Whisper has none."""
    wanted = " ".join(spelling.split())
    if wanted.casefold() in _DETECT:
        return None
    if wanted.casefold() in LANGUAGES:
        return wanted.casefold()
    code = (_by_tag(wanted) or _by_name(wanted)) if wanted.isprintable() else None  # langcodes fails on a NUL character
    if code is None:
        raise LookupError(spelling)
    return code


def _by_tag(wanted: str) -> str | None:
    from langcodes import Language
    from langcodes.tag_parser import LanguageTagError

    locale = _LOCALE.fullmatch(wanted)
    if locale is None:
        return None
    try:
        return _nearest(Language.get(locale[1].replace("_", "-")).language)
    except LanguageTagError:
        return None


def _by_name(wanted: str) -> str | None:
    from langcodes import find

    try:
        return _nearest(find(wanted).language)
    except LookupError:
        return None


def _nearest(language: str | None) -> str | None:
    """language: a primary subtag."""
    from langcodes import closest_supported_match

    return closest_supported_match(language, sorted(LANGUAGES), max_distance=_FARTHEST) if language else None
