"""One recording's pieces on their way through Whisper: several at once, told in order, in one language.

    pieces ─▶ open: encoded, then written together, warmer or further where one pass was not enough ─▶ told in order
               ▲                      │
               └── language known ◀───┴── while it is open: one piece after the other, until their sum decides

A recording has at most a `Share` of a batch, so that a batch on a CPU is soon over for those who come meanwhile. Its
first piece is heard alone, so that there is soon something to read.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, NamedTuple

from media.audio import SAMPLE_RATE
from media.speech import MAX_PIECE
from workers.whisper.units import Evidence, Outcome, Segment, Unit

if TYPE_CHECKING:
    from media.speech import Cut, Piece

Found = tuple["Cut", "Piece | None"]
"""A piece and its window; None for a window without any that is to be heard."""


class Share(NamedTuple):
    """What one recording may have in a batch. encode_first: pieces are encoded in passes of their own."""

    pieces: int
    seconds: float
    encode_first: bool


@dataclasses.dataclass(slots=True, eq=False)
class _Open:
    """A piece under way. unit: its next pass, None when it is done. offset: seconds at which that begins."""

    window: Cut
    piece: Piece
    unit: Unit | None
    offset: float = 0.0
    segments: list[Segment] = dataclasses.field(default_factory=list)
    language: str | None = None
    undecided: bool = False

    def take(self, outcome: Outcome) -> None:
        self.segments += [segment.later(self.offset) for segment in outcome.segments]
        self.offset += outcome.shift
        self.unit, self.language = outcome.then, outcome.language
        self.undecided = outcome.language is None and outcome.then is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What a piece says. segments: seconds from the piece's beginning."""

    language: str | None = None
    segments: tuple[Segment, ...] = ()


class Hearing:
    """The pieces of one recording.

    template: a unit of this recording, whatever its audio. tell: takes each piece when it is done, in order.
    """

    def __init__(self, template: Unit, share: Share, tell: Callable[[Cut, Piece | None, Heard], None]) -> None:
        self._template = template
        self._share = share
        self._tell = tell
        self._open: deque[_Open] = deque()
        self._begun = False
        self.evidence = Evidence()
        self.language = template.language
        """The recording's language once it is decided; if it has several, the one that leads."""

    def run(self, found: Iterator[Found]) -> Generator[list[Unit], list[Outcome], None]:
        """Yields units, is sent their outcomes, until every piece is told."""
        more = True
        while more or self._open:
            asked = [piece for piece in self._open if piece.unit is not None and not piece.undecided]
            if not asked and more:
                more = self._admit(found)
                asked = [piece for piece in self._open if piece.unit is not None and not piece.undecided]
            if not asked and not more:
                if not self._open:
                    return
                self._decide(self.evidence.leader)
                asked = [piece for piece in self._open if piece.unit is not None]
            outcomes = yield [piece.unit for piece in asked if piece.unit] or [Unit(None)]
            for piece, outcome in zip(asked, outcomes, strict=False):
                self._take(piece, outcome)
            while self._open and self._open[0].unit is None:
                done = self._open.popleft()
                self._tell(done.window, done.piece, Heard(done.language, tuple(done.segments)))

    def _admit(self, found: Iterator[Found]) -> bool:
        """Open the next pieces, as many as may share a batch. Returns False at the recording's end."""
        count, seconds = 0, 0.0
        single = not self._begun or (self.language is None and not self._template.each)
        self._begun = True
        while count < (1 if single else self._share.pieces):
            window, piece = next(found, (None, None))
            if window is None:
                return False
            if piece is None:  # long silence, or the way to where an earlier attempt ended
                if not self._open:
                    self._tell(window, None, Heard())
                return True
            seconds += len(piece.audio) / SAMPLE_RATE
            count += 1
            self._open.append(_Open(window, piece, self._unit(piece)))
            if seconds + MAX_PIECE / SAMPLE_RATE > self._share.seconds:
                break
        if self._share.encode_first and count > 1:
            for opened in self._open:
                if opened.unit is not None and opened.unit.encoded is None:
                    opened.unit = dataclasses.replace(opened.unit, encode_only=True)
        return True

    def _unit(self, piece: Piece) -> Unit:
        language = None if self._template.each else self.language
        return dataclasses.replace(
            self._template,
            audio=piece.audio,
            speech=piece.speech or None,
            sure=piece.sure,
            language=language,
            evidence=self.evidence,
        )

    def _take(self, piece: _Open, outcome: Outcome) -> None:
        if outcome.detected is not None:
            self.evidence = self.evidence.plus(outcome.detected)
        piece.take(outcome)
        if outcome.language is not None:
            self._decide(self.evidence.leader if self._template.each else outcome.language)

    def _decide(self, language: str | None) -> None:
        """The recording's language; the pieces that waited for it are written in it."""
        self.language = language or self.language
        for piece in self._open:
            if piece.undecided and piece.unit is not None:
                piece.unit = dataclasses.replace(piece.unit, language=self.language)
                piece.undecided = False
