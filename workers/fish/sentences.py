"""A text of any length and script as pieces to speak one after another, each about a breath long.

    text ─▶ lines     NFC; no control characters, no surrogates; white space folded; a border at each paragraph's end
         ─▶ sentences sentencex, and the marks of scripts that it does not know
         ─▶ parts     a sentence that is too long: at its clauses, else at spaces, else at hyphens, else anywhere
         ─▶ pieces    neighbours packed together as long as they fit, within a paragraph

Lengths are in UTF-8 bytes, as upstream's `chunk_length` counts them (fish_speech/text/spliter.py), so that scripts
which say more in a letter get fewer letters. All of it takes linear time, and no text is looked at as a whole by a
library that needs more (`_WINDOW`).
"""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import regex
import sentencex

PARAGRAPH, SENTENCE, CLAUSE = 0.5, 0.25, 0.1
"""Seconds of silence after a piece, by what it ends with; none where a clause was cut."""

_WINDOW = 4096
"""Characters that sentencex is given at once. It takes quadratic time in a run without spaces, as in Chinese."""

_MOST_MARKS = 30
"""Most combining marks on a letter, as in Unicode's Stream-Safe Text Format (UAX #15); NFC is quadratic in them."""

_SHORTEST_WRAPPED = 50
"""Characters of a line that may have been broken for its width alone. Verses and lists have shorter ones."""

_LINE_END = regex.compile(r"\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
# Joiners shape letters, so they stay; a zero-width space marks a word's end in Khmer or Thai.
_UNSEEN = regex.compile(r"(?V1)[[\p{Cc}--\n\t\x1f]\p{Cs}[\p{Cf}&&\p{Default_Ignorable_Code_Point}--\u200b-\u200d]]")
_SPACE = regex.compile(r"[^\S\n]+")
_EXCESS_MARKS = regex.compile(rf"(\p{{M}}{{{_MOST_MARKS}}})\p{{M}}++")
_RULE = regex.compile(r"([\p{P}\p{S}])\1{3,}+")
_SPOKEN = regex.compile(r"[\p{L}\p{N}]")
_SENTENCE_END = regex.compile(r"[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\"']*$")

# "Am 3. Oktober": in many languages an ordinal, and often a list's number; hardly ever a sentence's end.
_ORDINAL = regex.compile(r"(?<!\d)\d{1,2}\.\s++$")

_CLOSING = r"[\p{Pe}\p{Pf}\"']*+"
# The marks of sentences that sentencex passes over: Thai, Tibetan, Khmer, vertical forms, Bamum, Javanese.
_FURTHER_SENTENCES = regex.compile(
    rf"[\u0e5a\u0e5b\u0f08\u0f0d-\u0f12\u17d4\u17d5\u17da\ufe12\ufe15\ufe16]++{_CLOSING}\s*+"
)
# An ASCII mark counts before a space only, because numbers, times and addresses contain it too. Any other mark counts
# outside a number. Full stops stand here for sentences within quotes. In Thai and its neighbours spaces part phrases.
_MARK = r"[[\p{Terminal_Punctuation}--\p{ASCII}--\u1361]\u2013-\u2015…]"
_CLAUSES = regex.compile(
    rf"""(?V1)(?:
      (?:[,;:!?]++|(?<=\p{{L}}{{4}})\.++|(?<=\s)-++){_CLOSING}(?=\s)
      |(?:(?<!\d){_MARK}++|{_MARK}++(?!\d)){_CLOSING}
      |(?<=[\p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}])(?=\s)
    )\s*+""",
    regex.VERBOSE,
)
_WORDS = regex.compile(r"[\s\u200b\u0f0b\u1361]++")
_WORD_PARTS = regex.compile(r"(?<=\w)[-:/_&?=+]++(?=\w)")
_CLUSTER = regex.compile(r"\X")

_LEVELS = ((_CLAUSES, CLAUSE), (_WORDS, 0.0), (_WORD_PARTS, 0.0))
"""Where a part that is too long is cut, best first, and the silence that may stand there."""

_LANGUAGES = regex.compile(
    r"(?P<en>\p{Latin})|(?P<ru>\p{Cyrillic})|(?P<el>\p{Greek})|(?P<he>\p{Hebrew})|(?P<ar>\p{Arabic})|(?P<hy>\p{Armenian})"
    r"|(?P<hi>\p{Devanagari})|(?P<bn>\p{Bengali})|(?P<pa>\p{Gurmukhi})|(?P<gu>\p{Gujarati})|(?P<ta>\p{Tamil})"
    r"|(?P<te>\p{Telugu})|(?P<kn>\p{Kannada})|(?P<ml>\p{Malayalam})|(?P<am>\p{Ethiopic})|(?P<my>\p{Myanmar})"
)
"""Whose abbreviations to know, by script: the language is not told, and most scripts have one that most write."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """text: without white space at its ends, with at least one letter or number. pause: seconds of silence after it."""

    text: str
    pause: float


def spoken_pieces(text: str, longest: int = 200) -> list[Piece]:
    """text in pieces of at most `longest` bytes; together they hold its letters and numbers, all and in order.

    A piece never goes over a paragraph's end. Paragraphs end at each line break, but where a long line goes on with a
    small letter. Pieces with nothing to speak in them (emoji, symbols) are left out; no pieces: nothing to speak.
    The last piece's pause is 0. longest: at least 4.
    """
    if longest < 4:
        raise ValueError("a letter takes up to 4 bytes")
    pieces: list[Piece] = []
    for line in _lines(text):
        parts = [part for sentence in _sentences(line) for part in _fitting(sentence, longest)]
        for piece in _packed(parts, longest):
            if _SPOKEN.search(piece.text):
                pieces.append(piece)
            elif pieces:
                pieces[-1] = _followed_by(pieces[-1], piece.pause)
        if pieces:
            pieces[-1] = _followed_by(pieces[-1], PARAGRAPH)
    if pieces:
        pieces[-1] = dataclasses.replace(pieces[-1], pause=0.0)
    return [dataclasses.replace(piece, text=piece.text.replace("\u200b", "").strip()) for piece in pieces]


def _lines(text: str) -> Iterator[str]:
    """Paragraphs that hold something to speak, normalised, in one line each."""
    text = _UNSEEN.sub("", _LINE_END.sub("\n", text))
    text = unicodedata.normalize("NFC", _EXCESS_MARKS.sub(r"\1", text))
    text = _RULE.sub(r"\1\1\1", _SPACE.sub(" ", text))
    wrapped: list[str] = []
    for line in (line.strip() for line in text.split("\n")):
        goes_on = wrapped and len(wrapped[-1]) >= _SHORTEST_WRAPPED and line[:1].islower()
        if wrapped and not (goes_on and not _SENTENCE_END.search(wrapped[-1])):
            yield " ".join(wrapped)
            wrapped = []
        if _SPOKEN.search(line):
            wrapped.append(line)
    if wrapped:
        yield " ".join(wrapped)


def _sentences(line: str) -> Iterator[Piece]:
    """Sentences, each with the space after it. A longer one than a window is cut there, far too long anyway."""
    scripts = Counter(match.lastgroup for match in _LANGUAGES.finditer(line, 0, _WINDOW))
    language = (scripts.most_common(1) or [("en", 0)])[0][0]
    start = 0
    while start < len(line):
        window = line[start : start + _WINDOW]
        found = list(sentencex.segment(language, window))
        if len(found) > 1 and start + len(window) < len(line):
            found.pop()  # the last sentence may go on beyond the window
        start += sum(map(len, found))
        held: list[str] = []
        for sentence in [*found, ""]:
            held.append(sentence)
            if not _ORDINAL.search(sentence):
                yield from (Piece(text, SENTENCE) for text in _cut("".join(held), _FURTHER_SENTENCES))
                held.clear()


def _fitting(part: Piece, longest: int, level: int = 0) -> list[Piece]:
    """The part, or what it is cut into at this level and, where that is too long, at the next ones."""
    if _size(part) <= longest:
        return [part]
    if level == len(_LEVELS):
        texts = list(_clusters(part.text, longest))
        return [*(Piece(text, 0.0) for text in texts[:-1]), Piece(texts[-1], part.pause)]
    smaller = _cut_at(part, *_LEVELS[level])
    return _packed([fit for some in smaller for fit in _fitting(some, longest, level + 1)], longest)


def _packed(parts: Sequence[Piece], longest: int) -> list[Piece]:
    """Neighbours together while they fit; the last two groups about equal, so that no single word is left over."""
    groups: list[list[Piece]] = []
    size = 0
    for part in parts:
        if not groups or size + _size(part) > longest:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += _size(part, with_space=True)
    if len(groups) > 1:
        before = sum(_size(part, with_space=True) for part in groups[-2])
        while size + (moved := _size(groups[-2][-1], with_space=True)) <= before - moved:
            groups[-1].insert(0, groups[-2].pop())
            before, size = before - moved, size + moved
    return [_joined(group) for group in groups]


def _clusters(text: str, longest: int) -> Iterator[str]:
    """Cut between grapheme clusters, or between code points where one cluster is longer than a piece."""
    start = 0
    while start < len(text):
        window = text[start : start + longest + 1]  # more bytes than fit, so that the clusters that do are whole
        for pattern in (_CLUSTER, regex.compile(r"(?s).")):
            ends = [match.end() for match in pattern.finditer(window)]
            sizes = itertools.accumulate(len(window[a:b].encode()) for a, b in itertools.pairwise([0, *ends]))
            fitting = [end for end, size in zip(ends, sizes, strict=True) if size <= longest]
            if fitting:
                break
        yield window[: fitting[-1]]
        start += fitting[-1]


def _cut_at(part: Piece, ends: regex.Pattern[str], pause: float) -> list[Piece]:
    """At the ends of the matches; the last keeps the part's pause."""
    *texts, last = _cut(part.text, ends)
    return [*(Piece(text, pause) for text in texts), Piece(last, part.pause)]


def _cut(text: str, ends: regex.Pattern[str]) -> list[str]:
    borders = sorted({0, len(text), *(match.end() for match in ends.finditer(text))})
    return [text[start:end] for start, end in itertools.pairwise(borders)]


def _joined(parts: Sequence[Piece]) -> Piece:
    return Piece("".join(part.text for part in parts), parts[-1].pause)


def _followed_by(piece: Piece, pause: float) -> Piece:
    return dataclasses.replace(piece, pause=max(piece.pause, pause))


def _size(piece: Piece, with_space: bool = False) -> int:
    """Bytes, without the space at its end or with it, as where something follows."""
    return len((piece.text if with_space else piece.text.rstrip()).encode())
