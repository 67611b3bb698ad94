"""Which of a file's audio tracks is meant: by its number, as players show them, or by the language that it is in.

Containers name languages by three letters (ISO 639-2, of which some have two spellings) or by a tag (BCP 47); people by
two letters, or in words. Both are compared by what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import langcodes
from av.stream import Disposition

from contract.errors import InvalidInput

_LISTED = 20


def chosen(streams: Sequence[Any], track: str) -> Any:
    """One of the streams of sound, at least one. track: a number from 1 on, or a language. Raises: InvalidInput."""
    if track.isdecimal():
        if 1 <= int(track) <= len(streams):
            return streams[int(track) - 1]
        raise _unknown(streams, f"no audio track {track}")
    wanted = _meaning(track)
    fitting = [stream for stream in streams if wanted and _meaning(stream.language or "") == wanted]
    if not fitting:
        raise _unknown(streams, f"no audio track in {track!r}")
    return next((stream for stream in fitting if stream.disposition & Disposition.default), fitting[0])


def _meaning(language: str) -> str | None:
    """The shortest code of a language, of whatever spelling; None for what is none."""
    try:
        found = langcodes.get(language) if langcodes.tag_is_valid(language) else langcodes.find(language)
    except LookupError:
        return None
    return found.prefer_macrolanguage().language


def _unknown(streams: Sequence[Any], what: str) -> InvalidInput:
    listed = ", ".join(f"{number} ({_name(stream)})" for number, stream in enumerate(streams[:_LISTED], 1))
    more = ", …" if len(streams) > _LISTED else ""
    return InvalidInput(f"This file has {what}; it has {listed}{more}.", field="track")


def _name(stream: Any) -> str:
    code = _meaning(stream.language or "")
    return langcodes.get(code).display_name() if code else "its language is not given"
