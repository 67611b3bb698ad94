"""One recording's pieces on their way through Whisper: several at once, told in order, in one language.

    pieces ─▶ ready: prepared ─▶ open: encoded, then written, warmer or further where one pass was not enough ─▶ told
                                  ▲                      │
                                  └── language known ◀───┴── while it is open: one piece after the other, until their
                                                             sum decides

The next pieces are prepared while the model computes. A recording has at most a `Share` of a batch, so that a batch on
a CPU is soon over for those who come meanwhile. There its first piece is heard alone, so that there is soon something
to read, and the others as many at a time as the share has, whenever they are ready: which pieces say what a piece is
spoken in must not hang on the clock.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from media.audio import SAMPLE_RATE
from media.speech import MAX_PIECE
from workers.base import TURN, Answer, Run
from workers.whisper.units import ENOUGH_PIECES, Evidence, Outcome, Pass, Segment, Unit

if TYPE_CHECKING:
    from media.speech import Cut, Piece

Found = tuple["Cut", "Piece | None"]
"""A piece and its window; None for a window without any that is to be heard."""

_LONGEST = MAX_PIECE / SAMPLE_RATE


class Share(NamedTuple):
    """What one recording may have of the model.

    pieces, seconds: of speech, at once; as many again may wait for an earlier one, to be told in order. rolling: the
    next piece may join as soon as one is done, rather than when all are; else pieces are encoded in passes of their
    own, and the first is heard alone.
    """

    pieces: int
    seconds: float
    rolling: bool


class Ear(Protocol):
    """What stands around the model (`reading.Reader`)."""

    def prepared(self, unit: Unit) -> Unit: ...
    def outcome(self, one: Pass) -> Outcome: ...


@dataclasses.dataclass(slots=True, eq=False)
class _Open:
    """A piece under way, or a window without one. unit: its next pass, None when it is done.

    answer: of the pass in hand. offset: seconds at which the next pass begins.
    """

    window: Cut
    piece: Piece | None
    unit: Unit | None
    answer: Answer | None = None
    offset: float = 0.0
    segments: list[Segment] = dataclasses.field(default_factory=list)
    language: str | None = None
    undecided: bool = False

    @property
    def seconds(self) -> float:
        return len(self.piece.audio) / SAMPLE_RATE if self.piece else 0.0

    def take(self, outcome: Outcome) -> None:
        self.segments += [segment.later(self.offset) for segment in outcome.segments]
        self.offset += outcome.shift
        self.unit, self.answer, self.language = outcome.then, None, outcome.language
        self.undecided = outcome.language is None and outcome.then is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What a piece says. segments: seconds from the piece's beginning."""

    language: str | None = None
    segments: tuple[Segment, ...] = ()


class Hearing:
    """The pieces of one recording.

    template: a unit of this recording, whatever its audio. share: what it may have now. ask: has a unit heard.
    tell: takes each piece when it is done, in order.
    """

    def __init__(
        self,
        template: Unit,
        share: Callable[[], Share],
        ear: Ear,
        ask: Callable[[Unit], Answer],
        tell: Callable[[Cut, Piece | None, Heard], None],
    ) -> None:
        self._template = template
        self._share = share
        self._ear = ear
        self._ask = ask
        self._tell = tell
        self._ready: deque[_Open] = deque()
        self._open: deque[_Open] = deque()
        self._begun = False
        self._more = True
        """Whether there are pieces that are not ready yet."""
        self.evidence = Evidence()
        self.language = template.language
        """The recording's language once it is decided; if it has several, the one that leads."""

    def run(self, found: Iterator[Found]) -> Run:
        """Waits for answers and lets others have their turn, until every piece is told."""
        while True:
            self._collect()
            self._begin()
            asked = [piece.answer for piece in self._open if piece.answer]
            if self._more and len(self._ready) < self._share().pieces:
                self._more = self._prepare(found)
                yield TURN
            elif asked:
                yield asked[0] if self._share().rolling else asked
            elif self._open:  # all of them wait for a language that no further piece can decide
                self._decide(self.evidence.leader)
            elif not self._ready:
                return

    def _prepare(self, found: Iterator[Found]) -> bool:
        """Make the next piece ready. Returns False at the recording's end."""
        window, piece = next(found, (None, None))
        if window is None:
            return False
        if piece is None:  # long silence, or the way to where an earlier attempt ended
            self._ready.append(_Open(window, None, None))
            return True
        unit = dataclasses.replace(self._template, audio=piece.audio, speech=piece.speech or None, sure=piece.sure)
        self._ready.append(_Open(window, piece, self._ear.prepared(unit)))
        return True

    def _begin(self) -> None:
        """Ask for the next passes; with the next pieces where the recording's share leaves room for them."""
        share = self._share()
        busy = sum(piece.unit is not None and not piece.undecided for piece in self._open)
        if share.rolling or not busy:
            self._admit(share, busy)
        for piece in self._open:
            if piece.unit is not None and piece.answer is None and not piece.undecided:
                piece.answer = self._ask(piece.unit)

    def _admit(self, share: Share, busy: int) -> None:
        """Open the next pieces, as many as may share a batch; one, where it has to be heard before the others."""
        deciding = self.language is None and not self._template.each
        most = 1 if deciding or not (share.rolling or self._begun) else share.pieces
        if self._more and not share.rolling and len(self._ready) < most:
            return
        opened: list[_Open] = []
        held = 2 * share.pieces + ENOUGH_PIECES
        while self._ready and busy + len(opened) < most and len(self._open) < held:
            if opened and sum(piece.seconds for piece in opened) + _LONGEST > share.seconds:
                break
            piece = self._ready.popleft()
            self._open.append(piece)
            if piece.unit is not None:
                language = None if self._template.each else self.language
                piece.unit = dataclasses.replace(piece.unit, language=language, evidence=self.evidence)
                opened.append(piece)
        self._begun = self._begun or bool(opened)
        if deciding if share.rolling else len(opened) > 1:
            for piece in opened:
                assert piece.unit is not None, "it was opened with one"
                piece.unit = dataclasses.replace(piece.unit, encode_only=True)

    def _collect(self) -> None:
        """Take what was heard, and tell what is done, in order."""
        for piece in self._open:
            if piece.answer is not None and piece.answer.done:
                self._take(piece, self._ear.outcome(piece.answer.get()))
        while self._open and self._open[0].unit is None:
            done = self._open.popleft()
            self._tell(done.window, done.piece, Heard(done.language, tuple(done.segments)))

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
