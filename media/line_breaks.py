# ruff: noqa: RUF001 - characters of many scripts that look alike are told apart here
"""Where the text of a transcript may be broken into lines, and how gladly: pure.

    chunks (with words) ─▶ words with times ─▶ fragments, in which no line is broken ─▶ a price for a break before each

A break stands at a space, or in a script that has none between two words as Whisper gave them; never inside a grapheme
cluster, before a closing mark or a small kana, or after an opening one. Only a unit wider than a whole line is taken
apart, cluster by cluster. Widths are columns: wide characters of East Asia count two.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from wcwidth import iter_graphemes, wcswidth

LINE = 42
"""Columns of a line."""

UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})
"""Languages written without spaces between words or sentences."""

SENTENCE, CLAUSE, CHUNK, PHRASE, WORD, BOUND, TORN = 0.0, 2.0, 3.0, 5.0, 7.0, 11.0, 40.0
"""Prices of a break, in this order: after a sentence, after a clause, between two chunks, before a conjunction, between
two words, after a word that belongs to the next one, inside a word."""
PAUSE = 300
"""Milliseconds of silence; a break in a longer one costs half."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fragment:
    """Text that stays together. spaced: a space stands before it, unless it begins a line. start, end: milliseconds.

    price: of a break before it.
    """

    text: str
    spaced: bool
    start: int
    end: int
    width: int
    price: float = SENTENCE


@dataclasses.dataclass(frozen=True, slots=True)
class _Word:
    text: str
    spaced: bool
    start: int
    end: int
    first: bool = False  # of its chunk


def fragments(chunks: Iterable[Mapping[str, Any]], language: str | None) -> list[Fragment]:
    """The transcript as fragments in order of time.

    chunks: ``{"start", "end", "text"}`` in seconds, each with ``words`` ``[{"word", "start", "end"}]`` or without;
    without, or where they do not spell the text, times are shared out by the length of what is written.
    language: ISO 639-1, of the text.
    """
    found: list[Fragment] = []
    before: _Word | None = None
    for word in _whole(_words(chunks, language)):
        price = SENTENCE if before is None else _price(before, word, language)
        parts = _fitting(word)
        found.append(_fragment(parts[0], price))
        for one, other in itertools.pairwise(parts):
            torn = TORN if _torn(one.text, other.text) else _price(one, other, language)
            found.append(_fragment(other, torn))
        before = word
    return found


def clean(text: str) -> str:
    """One line: white space as single spaces, control characters left out."""
    return " ".join(_CONTROL.sub("", text).split())


def _fragment(word: _Word, price: float) -> Fragment:
    return Fragment(word.text, word.spaced, word.start, word.end, max(0, wcswidth(word.text)), price)


def _words(chunks: Iterable[Mapping[str, Any]], language: str | None) -> Iterator[_Word]:
    """Words as Whisper gave them; their times never go back."""
    now = 0
    space = False
    for chunk in chunks:
        text = chunk["text"]
        spoken = [(word["word"], word["start"], word["end"]) for word in chunk.get("words") or ()]
        if _letters("".join(word for word, _, _ in spoken)) != _letters(text):
            spoken = [(text, chunk["start"], chunk["end"])]
        first = True
        for raw, start, end in spoken:
            space = space or raw[:1].isspace()
            for word in _shared_out(raw.split(), round(start * 1000), round(end * 1000)):
                begin = max(now, word.start)
                now = max(begin, word.end)
                yield dataclasses.replace(word, spaced=space or word.spaced, start=begin, end=now, first=first)
                space = first = False
            space = space or raw[-1:].isspace()
        space = language not in UNSPACED


def _shared_out(texts: Sequence[str], start: int, end: int) -> Iterator[_Word]:
    """Parts of a stretch of time, as long as their texts are; the second and further ones have a space before."""
    texts = [text for raw in texts if (text := _CONTROL.sub("", raw))]
    total = sum(map(len, texts)) or 1
    said = 0
    for index, text in enumerate(texts):
        begin = start + (end - start) * said // total
        said += len(text)
        yield _Word(text, index > 0, begin, start + (end - start) * said // total)


def _whole(words: Iterable[_Word]) -> Iterator[_Word]:
    """Words joined where no line may be broken between them."""
    held: _Word | None = None
    for word in words:
        if held is not None and not word.spaced and _inseparable(held.text, word.text):
            held = dataclasses.replace(held, text=held.text + word.text, end=word.end)
            continue
        if held is not None:
            yield held
        held = word
    if held is not None:
        yield held


def _inseparable(one: str, other: str) -> bool:
    return other[0] in _NEVER_FIRST or one[-1] in _NEVER_LAST or _torn(one, other) or not _boundary(one, other)


def _torn(one: str, other: str) -> bool:
    """Whether both sides of the place are of scripts that put spaces between their words."""
    return not (_WITHOUT_SPACES.match(one[-1]) or _WITHOUT_SPACES.match(other[0]))


def _boundary(one: str, other: str) -> bool:
    """Whether a grapheme cluster ends here. Clusters are short: what matters lies at the end of `one`."""
    last = list(iter_graphemes(one[-_CLUSTER:]))[-1]
    return next(iter_graphemes(last + other[:_CLUSTER])) == last


def _fitting(word: _Word) -> list[_Word]:
    """A word that no line is wide enough for, cluster by cluster."""
    if len(word.text) <= LINE // 2 or wcswidth(word.text) <= LINE:
        return [word]
    clusters = list(_shared_out(list(iter_graphemes(word.text)), word.start, word.end))
    return [dataclasses.replace(part, spaced=word.spaced and not index) for index, part in enumerate(clusters)]


def _price(before: _Word, word: _Word, language: str | None) -> float:
    price = _price_of_text(before.text, word.text, language)
    if word.first:
        price = min(price, CHUNK)
    return price / 2 if word.start - before.end >= PAUSE else price


def _price_of_text(before: str, word: str, language: str | None) -> float:
    leads, leans = _SHORT_WORDS.get(language or "", (frozenset(), frozenset()))
    mark = before.rstrip(_CLOSING)[-1:] or before[-1]
    if word[0] in _NEVER_FIRST or before[-1] in _NEVER_LAST:
        return TORN
    if before.lower() in leans:
        return BOUND
    if mark in _SENTENCE_MARKS:
        return SENTENCE
    if mark in _CLAUSE_MARKS:
        return CLAUSE
    if language == "ja":
        return _JAPANESE.get((_script(before[-1]), _script(word[0])), WORD)
    return PHRASE if word.lower() in leads else WORD


def _script(character: str) -> str:
    return next((name for name, among in _SCRIPTS if among.match(character)), "")


def _letters(text: str) -> str:
    return "".join(_CONTROL.sub("", text).split())


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\x80-\x84\x86-\x9f]")
_CLUSTER = 32
"""Characters that a grapheme cluster is looked for in; emoji families have 11."""

_CLOSING = "\"'”’»›)]}）］｝」』】〉》〕｣"
_SENTENCE_MARKS = frozenset(".!?…。！？．؟۔।॥։።༎")
_CLAUSE_MARKS = frozenset(",;:、，；：､،؛—–།")
_NEVER_FIRST = frozenset(
    _CLOSING.replace('"', "").replace("'", "")  # straight quotes open as well as close
    + "%,.:;!?…‥·・。、，．：；！？｡､･؟،؛۔।॥།༎་"
    + "ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶㇰㇱㇲㇳㇴㇵㇶㇷㇸㇹㇺㇻㇼㇽㇾㇿｧｨｩｪｫｬｭｮｯ"
    + "ーｰ々〻ゝゞヽヾ゛゜"
    + "ฯะาำๅๆຯະາຳໆ"  # vowels and marks that follow their consonant
)
_NEVER_LAST = frozenset("“‘«‹([{（［｛「『【〈《〔｢¿¡" + "เแโใไເແໂໃໄ")  # the vowels are written before their consonant
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uaa60-\uaa7f\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]"
)
_SCRIPTS = (
    ("hiragana", re.compile("[\u3040-\u309f]")),
    ("katakana", re.compile("[\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f]")),
    ("kanji", re.compile("[\u3400-\u9fff\uf900-\ufaff]")),
)
_JAPANESE = {
    # Whisper's Japanese words are pieces of words. Phrases end in hiragana; endings of verbs follow their kanji.
    ("hiragana", "kanji"): PHRASE,
    ("hiragana", "katakana"): PHRASE,
    ("hiragana", "hiragana"): BOUND,
    ("kanji", "hiragana"): BOUND + 2,
    ("kanji", "kanji"): BOUND,
    ("katakana", "katakana"): BOUND + 4,
}


def _short(leads: str, leans: str) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(leads.split()), frozenset(leans.split())


_SHORT_WORDS = {
    # Words that begin a phrase; words that belong to the one after them.
    "en": _short(
        "and or but so because that which who when where while if though than as with for from to in on at by of",
        "a an the my your his her its our their this these no not of to in on at by for from with and or but very "
        "mr. mrs. ms. dr. st.",
    ),
    "de": _short(
        "und oder aber denn weil dass ob wenn als wie mit für von zu in auf bei nach aus",
        "der die das den dem des ein eine einen einem einer mein dein sein ihr unser kein nicht zu in auf mit von und "
        "oder dr.",
    ),
    "es": _short(
        "y e o u pero porque que cuando donde como si con para por de en a",
        "el la los las un una unos unas mi tu su de del al a en con por para y o no muy que sr. sra. dr.",
    ),
    "fr": _short(
        "et ou mais car donc parce que qui quand où comme si avec pour par de dans en à sur",
        "le la les un une des du de mon ton son ma ta sa mes tes ses notre votre leur ce cette ne à en dans et ou que",
    ),
    "it": _short(
        "e o ma perché che quando dove come se con per di in a da su",
        "il lo la i gli le un uno una di del della a al alla da in con su per e o non che",
    ),
    "pt": _short(
        "e ou mas porque que quando onde como se com para por de em a",
        "o a os as um uma de do da dos das em no na ao à com por para e ou não que",
    ),
}
