"""A recording that is still being spoken: text while somebody speaks, and the final one when they pause.

    sound as it comes ─▶ utterances ─┬─ one has ended ─▶ heard like a file's piece ─▶ final chunks ─▶ checkpoint
         ▲                           └─ one goes on ───▶ a quick pass, once a second ─▶ agreement ─▶ tentative chunk
         └── MORE, when there is nothing to do until more of it has come ◀──────────────────────────────┘

There is one pass at a time, so on a busy machine the quick ones become fewer. An utterance that has ended when it is
read gets none. A tentative chunk has the index of the first chunk that will replace it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from media.audio import SAMPLE_RATE, Gap
from media.growing import BLOCK, Format, follow
from media.line_breaks import UNSPACED
from media.speech import Cut, Piece
from media.utterances import Utterances
from workers.base import MORE, TURN, Context, Run
from workers.whisper.agreement import Agreement, Tentative
from workers.whisper.pieces import Ear, Heard, Hearing, Share
from workers.whisper.transcript import Transcript
from workers.whisper.units import Evidence, Unit

GUESS_EVERY = SAMPLE_RATE
"""Samples of new speech between two quick passes."""

_SILENCE_KEPT = 30 * SAMPLE_RATE
"""Samples of silence after which a checkpoint says that a later attempt need not read it again."""
_ALONE = Share(pieces=1, seconds=float("inf"), rolling=False)


class Listening:
    """One recording of a live task.

    path: the recording. sample_rate: Hz, of raw samples. template: a unit of it, whatever its audio; its `language` is
    the client's, or None. ear: what stands around the model.
    """

    def __init__(self, ctx: Context, path: Path, kind: Format, sample_rate: int, template: Unit, *, ear: Ear) -> None:
        self._ctx = ctx
        self._ear = ear
        self._translated = template.task == "translate"
        self._finals = _Finals(ctx)
        self._transcript = Transcript(self._finals, SAMPLE_RATE, template.language, None, translated=self._translated)
        self._template = dataclasses.replace(template, language=self._transcript.language)
        self._hearing = self._heard_by()
        self._evidence = Evidence()
        start = self._transcript.window
        self._sound = follow(path, kind, sample_rate, lambda: ctx.ended, start)
        self._utterances = Utterances(start)
        self._start = self._kept = start
        self._guessed: Tentative | None = None
        self._agreement: Agreement | None = None
        self._guessed_to = start

    def run(self) -> Run:
        """Yields units. Returns the transcript, as that of a file."""
        with closing(self._sound):
            while True:
                whole = self._ctx.ended  # before reading: what comes after the end is nothing
                before, sound = self._sound.position, self._sound.read()
                if isinstance(sound, Gap):
                    yield from self._skip()
                    yield TURN
                    continue
                over = whole and not len(sound)
                fresh = sound[max(0, self._start - before) :]
                yield from self._finish(self._utterances.feed(fresh, last=over))
                if over:
                    return self._transcript.result()
                if whole or len(sound) >= BLOCK:
                    yield TURN  # there is more
                elif not (yield from self._guess()):
                    yield MORE

    def _skip(self) -> Run:
        """After a long gap: what was being said is over."""
        if self._sound.position > self._start:
            yield from self._finish(self._utterances.feed(np.empty(0, np.float32), last=True))
            self._utterances = Utterances(self._sound.position)
            self._pass_over()

    def _finish(self, ended: Sequence[Piece]) -> Run:
        """Hear utterances that ended, as the pieces of a file."""
        for piece in ended:
            window = self._window((piece,), piece.end)
            self._hearing = self._heard_by()
            self._hearing.evidence = self._evidence
            yield from self._hearing.run(self._transcript.unfinished([window]))
            self._evidence = self._hearing.evidence
            if self._template.language is None and self._evidence.decided:
                self._template = dataclasses.replace(self._template, language=self._hearing.language)
        if not ended:
            self._pass_over()

    def _heard_by(self) -> Hearing:
        return Hearing(self._template, lambda: _ALONE, self._ear, self._ctx.ask, self._tell)

    def _tell(self, window: Cut, piece: Piece | None, heard: Heard) -> None:
        assert piece is not None, "utterances are pieces"
        self._kept = piece.end
        told = self._finals.chunks
        self._transcript.add(window, piece, heard, self._hearing.language)
        if self._guessed and self._guessed.text and self._finals.chunks == told:  # it was no speech after all
            self._say(Tentative(), piece)
        self._guessed = self._agreement = None

    def _pass_over(self) -> None:
        """Let the transcript know how long the recording is, and, now and then, from where to read it again."""
        position = self._utterances.position
        window = self._window((), position)
        list(self._transcript.unfinished([window]))
        if self._utterances.open is None and position - self._kept >= _SILENCE_KEPT:
            self._kept = position
            self._transcript.pass_over(window)

    def _window(self, pieces: tuple[Piece, ...], end: int) -> Cut:
        return Cut(end, end, pieces, max(self._sound.position, self._start))

    def _guess(self) -> Run:
        """A quick pass over what is being said, if enough of it is new. Returns whether there was one."""
        piece, paused_at = self._utterances.open, self._utterances.paused_at
        if piece is None:
            return False
        enough = piece.end - max(piece.start, self._guessed_to) >= GUESS_EVERY
        if not enough and (paused_at is None or paused_at <= self._guessed_to):
            return False
        self._guessed_to = piece.end
        outcome = self._ear.outcome((yield self._quick(piece)))
        text = "".join(segment.text for segment in outcome.segments)
        if text.strip():
            if self._agreement is None:
                spaced = self._translated or outcome.language not in UNSPACED
                self._agreement = Agreement(spaced=spaced)
            tentative = self._agreement.add(text)
            if tentative != self._guessed:
                self._guessed = tentative
                self._say(tentative, piece)
        return True

    def _quick(self, piece: Piece) -> Unit:
        """The language of a quick pass: the recording's, or the one that leads while that is open."""
        template = dataclasses.replace(self._template, audio=piece.audio, sure=piece.sure, quick=True, words=False)
        unit = template if template.language else dataclasses.replace(template, each=True, evidence=self._evidence)
        return self._ear.prepared(unit)

    def _say(self, tentative: Tentative, piece: Piece) -> None:
        times = {"start": round(piece.start / SAMPLE_RATE, 3), "end": round(piece.end / SAMPLE_RATE, 3)}
        said = {**times, "text": tentative.text, "final": False, "stable": tentative.stable}
        self._ctx.partial(self._finals.chunks, said)


class _Finals(Context):
    """A context for the transcript, all whose chunks are final. chunks: how many it has told."""

    def __init__(self, ctx: Context) -> None:
        self.checkpoint_data = ctx.checkpoint_data
        self.finished = [
            {key: value for key, value in chunk.items() if key not in ("final", "stable")} for chunk in ctx.finished
        ]
        self.chunks: int = ctx.checkpoint_data["chunks"] if ctx.checkpoint_data else 0
        self._ctx = ctx

    def progress(self, fraction: float | None, eta: float | None = None, **details: Any) -> None:
        self._ctx.progress(fraction, eta, **details)

    def partial(self, index: int, data: Any) -> None:
        self.chunks = index + 1
        self._ctx.partial(index, {**data, "final": True, "stable": len(data["text"])})

    def checkpoint(self, data: Any) -> None:
        self._ctx.checkpoint(data)
