"""The parts of hearing: tokens as segments, tries, a recording's language, and pieces told in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from contract.errors import OutOfMemory
from media.audio import SAMPLE_RATE
from media.speech import Cut, Piece
from workers.base import TURN, Answer
from workers.whisper.encoded import Row
from workers.whisper.pace import TURN_SECONDS, Pace
from workers.whisper.pieces import Found, Heard, Hearing, Share
from workers.whisper.segments import loops, split, unlooped
from workers.whisper.units import Evidence, Outcome, Segment, Try, Unit, best

ZERO = 1000
"""The timestamp of 0 s; words are smaller."""


def at(seconds: float) -> int:
    return ZERO + round(seconds / 0.02)


def test_segments_lie_between_pairs_of_timestamps() -> None:
    tokens = [at(0), 1, 2, at(1.2), at(1.4), 3, at(2)]
    spans, seek, closed, unended = split(tokens, ZERO, 500)
    assert [(span.start, span.end) for span in spans] == [(0, 1.2), (pytest.approx(1.4), 2)]
    assert (seek, closed, unended) == (500, True, False)


def test_what_has_no_end_goes_on_to_the_pieces_end_or_is_heard_again() -> None:
    tokens = [at(0), 1, at(2), at(2), 2, 3]
    spans, seek, closed, unended = split(tokens, ZERO, 500)
    assert [(span.start, span.end) for span in spans] == [(0, 2), (2, 5)]
    assert (seek, closed, unended) == (500, False, True)
    spans, seek, closed, unended = split(tokens, ZERO, 500, whole=False)
    assert [(span.start, span.end) for span in spans] == [(0, 2)]
    assert (seek, closed, unended) == (200, False, False)


def test_a_text_without_pairs_is_one_segment() -> None:
    [span], seek, closed, unended = split([at(0.5), 1, 2, at(3)], ZERO, 400)
    assert (span.start, span.end, seek, closed, unended) == (0.5, 3, 400, True, False)
    [span], seek, closed, unended = split([1, 2], ZERO, 400)
    assert (span.start, span.end, seek, closed, unended) == (0, 4, 400, False, True)


def test_loops_are_written_once() -> None:
    loop = [token for n in range(5) for token in (at(n), 7, 8, at(n + 1))]
    assert [token for token in unlooped([at(0), 1, at(0), *loop], ZERO) if token < ZERO] == [1, 7, 8]
    assert unlooped([1, 2, 2, 3, 2, 2], ZERO) == (1, 2, 2, 3, 2, 2)
    assert unlooped([5, 6, 6, 6, 6, 7], ZERO) == (5, 6, 7)


def test_a_chorus_is_no_loop() -> None:
    """Both compress well; only what follows itself again and again is Whisper's own."""
    line = "Ask not what your country can do for you. "
    sung, other = [1, 2, 3], [4, 5]
    assert loops(line * 6, sung * 6, ZERO)
    assert loops(line * 6, (sung + other) * 3, ZERO)
    assert not loops(line * 6, sung * 2 + other + sung * 2, ZERO)
    assert not loops("Every word of it is another one.", sung * 6, ZERO)


def test_the_best_try_is_good_or_else_likely_and_without_repetition() -> None:
    bad, loop, likely = Try((1,), -1.5, 0.1, False), Try((2,), -0.1, 0.1, True), Try((3,), -1.2, 0.1, False)
    good, silence = Try((4,), -0.9, 0.9, False), Try((5,), -1.5, 0.9, True)
    assert [one.good for one in (bad, loop, likely, good, silence)] == [False, False, False, True, True]
    assert best((bad, loop, likely)) is likely
    assert best((loop,)) is loop
    assert best((bad, good)) is good


def test_the_language_is_decided_by_the_sum_of_pieces() -> None:
    """An intro that sounds a little like one language does not outweigh speech."""
    known = Evidence().plus({"cy": 0.5, "en": 0.3})
    assert (known.leader, known.decided) == ("cy", False)
    known = known.plus({"en": 0.9, "cy": 0.02})
    assert known.leader == "en"
    assert not known.decided
    known = known.plus({"en": 0.9}).plus({"en": 0.9})
    assert (known.leader, known.decided) == ("en", True)
    assert Evidence().plus({"es": 0.95}).decided


class Recording:
    """Pieces of a second each, what is asked of them, and what is told."""

    def __init__(
        self, count: int, *, rolling: bool = False, pieces: int = 3, language: str | None = None, each: bool = False
    ) -> None:
        self.told: list[tuple[int, str | None, list[str]]] = []
        self.asked: list[Answer] = []
        self._count = count
        share = Share(pieces, 90.0, rolling)
        self.hearing = Hearing(Unit(None, language=language, each=each), lambda: share, self, self.ask, self.tell)
        self._run = self.hearing.run(self.found())
        self._waits_for: Answer | list[Answer] | None = None

    def prepared(self, unit: Unit) -> Unit:
        return dataclasses.replace(unit, mel=unit.audio)

    def outcome(self, one: Any) -> Outcome:
        """The test gives what the model is to have made of a unit."""
        assert isinstance(one, Outcome)
        return one

    def ask(self, unit: Unit) -> Answer:
        assert unit.mel is not None
        self.asked.append(Answer(unit))
        return self.asked[-1]

    def found(self) -> Iterator[Found]:
        for number in range(self._count):
            piece = Piece(number * SAMPLE_RATE, np.zeros(SAMPLE_RATE, np.float32))
            yield Cut(0, 0, (piece,), 0), piece

    def tell(self, window: Cut, piece: Piece | None, heard: Heard) -> None:
        assert piece is not None
        self.told.append((piece.start // SAMPLE_RATE, heard.language, [segment.text for segment in heard.segments]))

    def whole(self, outcome: Outcome, *, at_once: bool) -> list[Unit]:
        """Go on to the end, with this answer to everything: as soon as it can be, or when nothing else is left to do.

        Returns what was asked.
        """
        for waits_for in self._run:
            for answer in self.asked:
                if at_once or waits_for is not TURN:
                    answer.result, answer.done = outcome, True
        return [answer.unit for answer in self.asked]

    def next(self) -> list[Unit]:
        """Go on until it waits or is over: what it has asked for meanwhile."""
        waits_for: Any = TURN
        try:
            while waits_for is TURN:
                waits_for = next(self._run)
        except StopIteration:
            waits_for = None
        self._waits_for = waits_for
        return [answer.unit for answer in self.asked if not answer.done]

    def answer(self, *outcomes: Outcome) -> list[Unit]:
        """The oldest questions are answered; then as `next`."""
        for answer, outcome in zip([one for one in self.asked if not one.done], outcomes, strict=False):
            answer.result, answer.done = outcome, True
        return self.next()

    @property
    def waits_for(self) -> int:
        """For how many answers it waits; 0 when it is over."""
        return len(self._waits_for) if isinstance(self._waits_for, list) else int(self._waits_for is not None)


def test_pieces_wait_until_the_language_is_decided_and_are_told_in_order() -> None:
    recording = Recording(4)
    [unit] = recording.next()
    row = Row(None, 0)
    again = dataclasses.replace(unit, encoded=row)
    [second] = recording.answer(Outcome(detected={"cy": 0.5, "en": 0.3}, then=again))
    assert second.evidence.pieces == 1
    [first] = recording.answer(Outcome(language="en", detected={"en": 0.9}, segments=(Segment(0, 1, "b"),)))
    assert (first.language, first.encoded, recording.told) == ("en", row, [])
    rest = recording.answer(Outcome(language="en", segments=(Segment(0, 1, "a"),)))
    assert [(unit.language, unit.encode_only) for unit in rest] == [("en", True)] * 2
    assert recording.told == [(0, "en", ["a"]), (1, "en", ["b"])]
    written = recording.answer(*(Outcome(language="en", then=dataclasses.replace(unit, encoded=row)) for unit in rest))
    assert [unit.encoded for unit in written] == [row] * 2
    assert recording.answer(*[Outcome(language="en")] * 2) == []
    assert [number for number, _, _ in recording.told] == [0, 1, 2, 3]
    assert recording.waits_for == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_which_pieces_say_what_a_piece_is_spoken_in_does_not_hang_on_when_the_model_answers(at_once: bool) -> None:
    """Each is unsure of its own language, and is taken for what those before it speak."""
    asked = Recording(8, each=True).whole(Outcome(language="en", detected={"en": 0.4}), at_once=at_once)
    assert [unit.evidence.pieces for unit in asked] == [0, 1, 1, 1, 4, 4, 4, 7]


def test_a_recording_that_ends_undecided_is_written_in_the_likeliest_language() -> None:
    recording = Recording(1)
    [unit] = recording.next()
    [again] = recording.answer(Outcome(detected={"pt": 0.4, "es": 0.3}, then=unit))
    assert again.language == "pt"


def test_what_follows_in_a_piece_is_told_with_it_on_its_clock() -> None:
    recording = Recording(2, pieces=1, language="en")
    [unit] = recording.next()
    recording.answer(Outcome((Segment(0, 0.4, "a"),), "en", then=unit, shift=0.5))
    recording.answer(Outcome((Segment(0, 0.5, "b"),), "en"))
    assert recording.told == [(0, "en", ["a", "b"])]


def test_on_a_gpu_a_recording_decides_its_language_first_and_then_keeps_its_share_full() -> None:
    recording = Recording(6, rolling=True)
    [first] = recording.next()
    assert first.encode_only
    asked = recording.answer(
        Outcome(language="en", detected={"en": 0.9}, then=dataclasses.replace(first, language="en", encode_only=False))
    )
    assert [(unit.language, unit.encode_only) for unit in asked] == [("en", False)] * 3
    assert recording.waits_for == 1
    assert len(recording.answer(Outcome(language="en"))) == 3
    assert [number for number, _, _ in recording.told] == [0]
    recording.answer(*[Outcome(language="en")] * 3)
    recording.answer(*[Outcome(language="en")] * 2)
    assert ([number for number, _, _ in recording.told], recording.waits_for) == ([0, 1, 2, 3, 4, 5], 0)


def test_a_piece_that_takes_long_does_not_make_a_recording_run_on_without_it() -> None:
    """What waits to be told after it is held in memory."""
    recording = Recording(1000, rolling=True, pieces=4, language="en")
    asked = recording.next()
    for _ in range(100):
        slow = asked[0]
        asked = recording.answer(*[Outcome(language="en", then=slow), *[Outcome(language="en")] * (len(asked) - 1)])
        asked.sort(key=lambda unit: unit is not slow)
        if len(asked) == 1:
            break
    assert recording.told == []
    assert len(recording.asked) - len([answer for answer in recording.asked if answer.unit is slow]) < 3 * 4 + 4


def test_what_fails_in_a_piece_ends_the_recording() -> None:
    recording = Recording(2, rolling=True, language="en")
    recording.next()
    recording.asked[0].result, recording.asked[0].done = OutOfMemory("Too much."), True
    with pytest.raises(OutOfMemory):
        recording.next()


def test_on_a_cpu_batches_are_short_and_hold_nothing_much_longer_than_who_is_first() -> None:
    def unit(seconds: float) -> Unit:
        return Unit(np.zeros(int(seconds * SAMPLE_RATE), np.float32), encoded=Row(None, 0))

    pace = Pace(SAMPLE_RATE)
    assert not pace.fits([unit(5)], unit(28), live=False)
    assert pace.fits([unit(28)], unit(5), live=False)
    assert pace.fits([unit(28)] * 3, unit(28), live=False)
    pace.measured([unit(20)], TURN_SECONDS / 2)
    assert pace.fits([unit(20)], unit(19), live=False)
    assert not pace.fits([unit(20)], unit(21), live=False)
