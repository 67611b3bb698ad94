"""What Whisper is asked and answers, a step at a time, and what pieces say about a recording's language.

    Unit ─▶ one pass over the model ─▶ Pass ─▶ Outcome ─▶ its `then`, if the piece needs another pass: a warmer try, the
                                                          part after the place where Whisper stopped, the same with its
                                                          language

One pass is all that a step takes, so nobody waits for the tries of somebody else's difficult recording.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from media.audio import Audio
    from media.detector import Span
    from workers.whisper.encoded import Row
    from workers.whisper.segments import Split

SURE = 0.8
"""The recording's language is one that has so large a share of the probability."""
ENOUGH_PIECES = 4
"""After so many pieces the leading language is taken, since music and noise make Whisper unsure of every piece."""
CHANGED = 0.5
"""In a recording of several languages a piece less certain than this is taken for the recording's main one."""

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The tries' temperatures. The first try is a beam search, the others sample (Radford et al. 2022, section 4.5)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """The languages' probabilities, summed over pieces."""

    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pieces: int = 0

    def plus(self, probabilities: Mapping[str, float]) -> Evidence:
        codes = self.sums.keys() | probabilities.keys()
        return Evidence(
            {code: self.sums.get(code, 0.0) + probabilities.get(code, 0.0) for code in codes}, self.pieces + 1
        )

    @property
    def leader(self) -> str | None:
        return max(self.sums, key=lambda code: self.sums[code]) if self.sums else None

    @property
    def share(self) -> float:
        """The leader's mean probability, 0 to 1."""
        return self.sums[self.leader] / self.pieces if self.leader else 0.0

    @property
    def decided(self) -> bool:
        return self.share >= SURE or self.pieces >= ENOUGH_PIECES


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """Seconds from where its segment's times count. word: as Whisper writes it, with the space before it."""

    start: float
    end: float
    word: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A line of text. start, end: seconds. words: None when they were not asked for."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None = None

    def later(self, seconds: float) -> Segment:
        words = self.words and tuple(
            dataclasses.replace(word, start=word.start + seconds, end=word.end + seconds) for word in self.words
        )
        return dataclasses.replace(self, start=self.start + seconds, end=self.end + seconds, words=words)


@dataclasses.dataclass(frozen=True, slots=True)
class Try:
    """What one decoding wrote. score: mean log probability of its tokens. repeats: it says one phrase over and over."""

    tokens: tuple[int, ...]
    score: float
    no_speech: float
    repeats: bool

    MIN_SCORE = -1.0
    MAX_NO_SPEECH = 0.6

    @property
    def silent(self) -> bool:
        """Whether Whisper takes the piece for silence and is unsure of what it wrote."""
        return self.no_speech > self.MAX_NO_SPEECH and self.score < self.MIN_SCORE

    @property
    def good(self) -> bool:
        """Whether the piece need not be tried again."""
        return self.silent or (not self.repeats and self.score >= self.MIN_SCORE)


def best(tries: tuple[Try, ...]) -> Try:
    """The try to keep: a good one, else the likeliest of those that do not repeat themselves, else the likeliest."""
    good = next((one for one in tries if one.good), None)
    return good or max((one for one in tries if not one.repeats), key=_score, default=None) or max(tries, key=_score)


def _score(one: Try) -> float:
    return one.score


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One pass over a piece.

    audio: float32, mono, 16 kHz, at most 30 s; None in a template. speech: where in it somebody speaks, None if that is
    not known. mel: float32, (1, n_mels, frames), and sounds: seconds between which something can be heard; made of the
    audio before the model has its turn (`reading.Reader`).
    sure: whether somebody does; if not, Whisper is asked before it writes.
    language: None to detect it. hints: tokens that stand before the prompt.
    evidence: of the pieces before, while the language is open. each: every piece has a language of its own.
    quick: a text for the moment, greedy, of which only the first pass counts. encode_only: stop before the text,
    unless others in the batch write theirs.
    encoded: if an earlier pass made it. tried: of colder passes.
    """

    audio: Audio | None
    speech: tuple[Span, ...] | None = None
    mel: Audio | None = None
    sounds: tuple[tuple[float, float], ...] = ()
    sure: bool = True
    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    hints: tuple[int, ...] = ()
    words: bool = False
    evidence: Evidence = dataclasses.field(default_factory=Evidence)
    each: bool = False
    quick: bool = False
    encode_only: bool = False
    encoded: Row | None = None
    tried: tuple[Try, ...] = ()

    @property
    def temperature(self) -> float:
        return TEMPERATURES[len(self.tried)]

    @property
    def settled(self) -> bool:
        """Whether no warmer try is to follow."""
        return bool(self.tried) and (self.tried[-1].good or len(self.tried) == len(TEMPERATURES))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What the model made of a unit, before anybody reads it.

    unit: with what it was encoded as, its language if that is decided, and its tries with the latest.
    detected: language → probability, where it was looked for. silent: nobody speaks. echo: the text repeats the hints.
    parts: of the try to keep, None while there is none.
    alignment: CTranslate2's, of the parts' words, where there are any and they were looked for.
    """

    unit: Unit
    detected: Mapping[str, float] | None = None
    silent: bool = False
    echo: bool = False
    parts: Split | None = None
    alignment: Any = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a unit.

    segments: seconds from the unit's beginning. language: None while undecided. detected: language → probability, where
    it was looked for. then: the next unit of the same piece, which begins `shift` seconds after this one.
    """

    segments: tuple[Segment, ...] = ()
    language: str | None = None
    detected: Mapping[str, float] | None = None
    then: Unit | None = None
    shift: float = 0.0
