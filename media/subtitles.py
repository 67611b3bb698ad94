"""Transcripts as files that players and editors read: SubRip, WebVTT, Advanced SubStation, plain text, TSV. Pure.

    chunks ─▶ fragments (media.line_breaks) ─▶ stretches without a long pause ─▶ cues of one or two lines ─▶ their times
                                                                                                  ─▶ text of a format

A whole stretch is cut into cues at once, in the cheapest way: a cut costs more the less the language pauses there, and
a cue that cannot be read in its time costs most.

The numbers are those that Netflix's Timed Text Style Guide asks for in English: two lines of 42 characters, 20
characters a second for adults, from 5/6 of a second to 7 seconds, two frames (of 24 a second) between cues.
Speed is counted in columns, so a wide character takes two characters' time.
"""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pysubs2
from pysubs2.formats.substation import SubstationFormat
from pysubs2.time import ms_to_times

from media.line_breaks import LINE, SENTENCE, Fragment, clean, fragments

SPEED = 20
"""Columns a second."""
SHORTEST, LONGEST = 834, 7000
"""Milliseconds that a cue is shown."""
GAP = 83
"""Milliseconds left between two cues that would touch."""
PAUSE = 1500
"""No cue spans so many milliseconds of silence."""

_CUE, _FULL = 3.5, 4.0
"""Price of a cue, and the extra price of two full lines. The extra shrinks with the square of the length, so that the
cues of a sentence become about equally long."""
_SENTENCE_INSIDE, _SILENCE_INSIDE = 3.2, 5.0
"""Extra prices of a cue that goes on after a sentence's end, and for each second of silence that it spans."""
_SILENCE = 500
"""Milliseconds; a shorter pause does not count as silence."""
_LATE = 10.0
"""Price of each second that a cue lacks to be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cue:
    """start, end: milliseconds from the recording's beginning. lines: one or two, in logical order."""

    start: int
    end: int
    lines: tuple[str, ...]


def cues(chunks: Iterable[Mapping[str, Any]], language: str | None) -> list[Cue]:
    """A transcript's cues, in order and apart. chunks, language: as `media.line_breaks.fragments` takes them."""
    cut = [part for stretch in _stretches(fragments(chunks, language)) for part in _cut(stretch)]
    starts: list[int] = []
    for part in cut:
        earliest = starts[-1] + SHORTEST + GAP if starts else 0
        starts.append(max(part[0].start, earliest))
    found = []
    for part, start, following in itertools.zip_longest(cut, starts, starts[1:]):
        read = max(SHORTEST, _columns(part) * 1000 // SPEED)
        end = min(max(part[-1].end, start + read), start + LONGEST)
        found.append(Cue(start, end if following is None else min(end, following - GAP), _lines(part)))
    return found


def exports(result: Mapping[str, Any], formats: Iterable[str], language: str | None) -> dict[str, str]:
    """The text of each format asked for.

    result: ``{"chunks": …}``, the chunks with ``words`` where times are to be exact. formats: keys of `FORMATS`.
    language: of the text, which for a translation is not the spoken one.
    """
    chunks = result["chunks"]
    shown = cues(chunks, language) if TIMED.intersection(formats) else []
    return {name: FORMATS[name](chunks, shown) for name in dict.fromkeys(formats)}


def _stretches(found: Sequence[Fragment]) -> Iterator[Sequence[Fragment]]:
    begin = 0
    for index in range(1, len(found) + 1):
        if index == len(found) or found[index].start - found[index - 1].end > PAUSE:
            yield found[begin:index]
            begin = index


def _cut(stretch: Sequence[Fragment]) -> list[Sequence[Fragment]]:
    """The cheapest way to cut a stretch into cues, found from its end."""
    count = len(stretch)
    reach = _reach(stretch)
    columns = [0, *itertools.accumulate(fragment.width + fragment.spaced for fragment in stretch)]
    inside = _inside(stretch)
    ends = [fragment.end for fragment in stretch]
    free = [
        *(fragment.start - GAP for fragment in stretch),
        ends[-1] + PAUSE,
    ]  # a cue that ends there is shown until then
    prices = [*(fragment.price for fragment in stretch), 0.0]  # of a cut there and of all after it
    following = [count] * count
    for begin in reversed(range(count)):
        start = stretch[begin].start
        least = float("inf")
        for end in range(begin + 1, reach[reach[begin]] + 1):
            if ends[end - 1] - start > LONGEST and end > begin + 1:
                break
            width = columns[end] - columns[begin]
            price = prices[end] + inside[end - 1] + _FULL * (width / (2 * LINE)) ** 2
            read = width * 1000 // SPEED
            late = (read if read > SHORTEST else SHORTEST) - (free[end] - start)
            if late > 0:
                price += _LATE * late / 1000
            if price <= least:
                least, following[begin] = price, end
        prices[begin] += _CUE + least - inside[begin]
    parts, begin = [], 0
    while begin < count:
        parts.append(stretch[begin : following[begin]])
        begin = following[begin]
    return parts


def _inside(stretch: Sequence[Fragment]) -> list[float]:
    """For each fragment, what it costs a cue that began with the first to have gone on up to it."""

    def price(before: Fragment, fragment: Fragment) -> float:
        silence = fragment.start - before.end
        said = _SENTENCE_INSIDE if fragment.price == SENTENCE else 0.0
        return said + (_SILENCE_INSIDE * silence / 1000 if silence >= _SILENCE else 0.0)

    return [0.0, *itertools.accumulate(itertools.starmap(price, itertools.pairwise(stretch)))]


def _reach(stretch: Sequence[Fragment]) -> list[int]:
    """For each fragment, and for the end: the first that no longer stands in a line that begins with it."""
    reach, width, end = [], 0, 0
    for begin, fragment in enumerate(stretch):
        if end <= begin:
            width, end = fragment.width, begin + 1
        while end < len(stretch) and width + stretch[end].spaced + stretch[end].width <= LINE:
            width += stretch[end].spaced + stretch[end].width
            end += 1
        reach.append(end)
        width -= fragment.width + (stretch[begin + 1].spaced if begin + 1 < end else 0)
    return [*reach, len(stretch)]


def _lines(part: Sequence[Fragment]) -> tuple[str, ...]:
    """One line where it fits; else two, broken where it is cheap and they are about as long."""
    if _columns(part) <= LINE:
        return (_text(part),)

    def price(at: int) -> float:
        above, below = _columns(part[:at]), _columns(part[at:])
        too_wide = 1000.0 * (max(above, below) > LINE)
        return too_wide + part[at].price + 8 * abs(above - below) / LINE + 0.5 * (above > below)

    at = min(range(1, len(part)), key=price, default=0)
    return (_text(part[:at]), _text(part[at:])) if at else (_text(part),)


def _columns(part: Sequence[Fragment]) -> int:
    return sum(fragment.width + fragment.spaced for fragment in part) - part[0].spaced


def _text(part: Sequence[Fragment]) -> str:
    return "".join(" " * (fragment.spaced and index > 0) + fragment.text for index, fragment in enumerate(part))


# Formats

_JOINER = "\u2060"
"""WORD JOINER, which is not seen: parts what a reader of the format would take for its own signs."""


def _guarded(line: str) -> str:
    """A line that no reader takes for times, a cue's number, a tag or a control sequence."""
    line = line.replace("\\", f"\\{_JOINER}").replace("-->", f"--{_JOINER}>")
    line = re.sub(r"(\d\d:\d\d)(?=[.,]\d\d)", rf"\1{_JOINER}", line)
    line = re.sub(r"<(?=\s*/?\s*[a-zA-Z])", f"<{_JOINER}", line)
    return f"{line}{_JOINER}" if line.isdigit() else line


def _substation_line(line: str) -> str:
    """Braces open instructions and only some players know an escape for them; the wide ones are text everywhere."""
    return line.replace("\\", f"\\{_JOINER}").replace("{", "\uff5b").replace("}", "\uff5d")


def _events(shown: Iterable[Cue], line: Callable[[str], str]) -> pysubs2.SSAFile:
    file = pysubs2.SSAFile()
    file.events = [pysubs2.SSAEvent(cue.start, cue.end, r"\N".join(map(line, cue.lines))) for cue in shown]
    return file


def _srt(_: Any, shown: Sequence[Cue]) -> str:
    return _events(shown, _guarded).to_string("srt", keep_ssa_tags=True)


def _vtt(_: Any, shown: Sequence[Cue]) -> str:
    return _events(shown, lambda line: html.escape(_guarded(line), quote=False)).to_string("vtt", keep_ssa_tags=True)


class _Substation(SubstationFormat):
    """pysubs2 ends its clock at 10 hours; the players' goes on."""

    @staticmethod
    def ms_to_timestamp(requested_ms: int) -> str:
        hours, minutes, seconds, ms = ms_to_times(round(requested_ms, -1))
        return f"{hours}:{minutes:02d}:{seconds:02d}.{ms // 10:02d}"


def _ass(_: Any, shown: Sequence[Cue]) -> str:
    file = _events(shown, _substation_line)
    # Lines stand as they are broken here, whatever the player's font: 42 columns are two thirds of this picture.
    file.info |= {"PlayResX": "1920", "PlayResY": "1080", "WrapStyle": "2"}
    style = pysubs2.SSAStyle(fontsize=60, outline=3, shadow=1, marginl=60, marginr=60, marginv=54)
    file.styles = {"Default": style}
    text = io.StringIO()
    _Substation.to_file(file, text, "ass")
    return text.getvalue()


def _txt(chunks: Sequence[Mapping[str, Any]], _: Any) -> str:
    """A line for each chunk."""
    return "".join(f"{clean(chunk['text'])}\n" for chunk in chunks)


def _tsv(chunks: Sequence[Mapping[str, Any]], _: Any) -> str:
    """As the whisper command writes it: a header, then a line for each chunk, with whole milliseconds."""
    rows = (f"{chunk['start'] * 1000:.0f}\t{chunk['end'] * 1000:.0f}\t{clean(chunk['text'])}\n" for chunk in chunks)
    return "".join(["start\tend\ttext\n", *rows])


FORMATS: dict[str, Callable[[Sequence[Mapping[str, Any]], Sequence[Cue]], str]] = {
    "srt": _srt,
    "vtt": _vtt,
    "ass": _ass,
    "txt": _txt,
    "tsv": _tsv,
}
TIMED = frozenset({"srt", "vtt", "ass"})
"""Formats made of cues: they need the times of words."""
