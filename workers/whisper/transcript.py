"""The growing transcript of one recording: texts of pieces in, chunks, partials, checkpoints and the result out.

    piece, heard ─▶ chunks on the recording's clock ─▶ partial for each ─▶ checkpoint

A later attempt gets the last checkpoint and the chunks that were partials, and transcribes no finished piece again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from media.line_breaks import UNSPACED
from workers.base import Context
from workers.whisper.units import Segment, Word

if TYPE_CHECKING:
    from media.speech import Cut, Piece
    from workers.whisper.pieces import Found, Heard


_SLIVER = 0.7
"""A line may touch so many seconds of other speech by mistake, but no more than a quarter of its own length."""


class Clock(Protocol):
    """Seconds in a piece → seconds in the recording. ends: of what ends there, rather than begins."""

    def __call__(self, seconds: float, *, ends: bool = False) -> float: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far it is. window: where the window in hand began; done: the end of the last finished piece; in samples."""

    window: int = 0
    done: int = 0
    chunks: int = 0
    language: str | None = None


class Transcript:
    """One recording's chunks so far, going on from the context's checkpoint if there is one."""

    def __init__(
        self,
        ctx: Context,
        sample_rate: int,
        language: str | None,
        told: float | None,
        *,
        translated: bool = False,
        multilingual: bool = False,
    ) -> None:
        """sample_rate: of the pieces. language: the client's, None to detect it. told: seconds, by the file itself.

        translated: the text is English. multilingual: chunks say their language.
        """
        self._ctx = ctx
        self._rate = sample_rate
        self._told = told
        self._translated = translated
        self._multilingual = multilingual
        self._heard = 0
        self._checkpoint = Checkpoint(**ctx.checkpoint_data) if ctx.checkpoint_data else Checkpoint()
        if language:
            self._checkpoint = dataclasses.replace(self._checkpoint, language=language)
        self._chunks: list[dict[str, Any]] = list(ctx.finished[: self._checkpoint.chunks])
        self._began, self._began_at = time.monotonic(), self._checkpoint.done

    @property
    def window(self) -> int:
        """The sample from which the recording is to be cut."""
        return self._checkpoint.window

    @property
    def language(self) -> str | None:
        """The recording's language once it is known."""
        return self._checkpoint.language

    def unfinished(self, windows: Iterable[Cut]) -> Iterator[Found]:
        """The pieces that no earlier attempt finished, each with its window; None for a window without any at all."""
        for window in windows:
            self._heard = window.heard
            yield from ((window, piece) for piece in window.pieces if piece.end > self._checkpoint.done)
            if not window.pieces:
                yield window, None

    def add(self, window: Cut, piece: Piece, heard: Heard, language: str | None) -> None:
        """Take in a piece's text. language: the recording's, as far as it is known."""
        for chunk in self._on_the_clock(piece, heard):
            self._ctx.partial(len(self._chunks), chunk)
            self._chunks.append(chunk)
        self._keep(Checkpoint(window.start, piece.end, len(self._chunks), language))

    def pass_over(self, window: Cut) -> None:
        """Take note of a window in which nobody speaks."""
        if window.stop > self._checkpoint.done:
            self._keep(dataclasses.replace(self._checkpoint, window=window.stop, done=window.stop))

    def result(self) -> dict[str, Any]:
        """The result for the whole recording."""
        unspaced = self._checkpoint.language in UNSPACED and not self._translated
        text = ("" if unspaced else " ").join(chunk["text"] for chunk in self._chunks)
        language = self._checkpoint.language
        return {
            "text": text,
            "chunks": self._chunks,
            "language": language,
            "duration": round(self._heard / self._rate, 3),
        }

    def _keep(self, state: Checkpoint) -> None:
        self._checkpoint = state
        self._ctx.checkpoint(dataclasses.asdict(state))
        self._ctx.progress(*self._progress())

    def _progress(self) -> tuple[float | None, float | None]:
        """(fraction, seconds left) by the time that the recording's work has taken so far."""
        if not self._told:
            return None, None
        total = self._told * self._rate
        pace = (time.monotonic() - self._began) / max(1, self._checkpoint.done - self._began_at)
        return min(1.0, self._checkpoint.done / total), max(0.0, total - self._checkpoint.done) * pace

    def _on_the_clock(self, piece: Piece, heard: Heard) -> Iterator[dict[str, Any]]:
        """Chunks in seconds from the recording's beginning, within the piece and in order.

        Whisper's times may lie beyond the piece, since it always hears 30 s, and may overlap. It also stretches lines
        over the silence around them, where the voice detector knows better.
        """
        last = piece.end / self._rate
        speech = [(span.start / self._rate, span.end / self._rate) for span in piece.speech]

        def at(seconds: float, *, ends: bool = False) -> float:
            return piece.at(seconds * self._rate, ends=ends) / self._rate

        earliest = max(at(0.0), self._chunks[-1]["start"] if self._chunks else 0.0)
        for segment in heard.segments:
            text = segment.text.strip()
            if not text:
                continue
            begins, ends = (segment.start, segment.end) if segment.words else _spoken(segment, speech)
            start = _within(earliest, at(begins), last)
            end = _within(start, at(ends, ends=True), last)
            chunk: dict[str, Any] = {"start": start, "end": end, "text": text}
            if self._multilingual:
                chunk["language"] = heard.language
            if segment.words is not None:
                chunk["words"] = list(_words(segment.words, at, start, end))
            earliest = start
            yield chunk


def silent(duration: float | None) -> dict[str, Any]:
    """The result for a video without sound. duration: seconds, if known."""
    reason = "This video has no sound."
    return {"text": "", "chunks": [], "language": None, "duration": round(duration or 0.0, 3), "reason": reason}


def _words(words: Sequence[Word], at: Clock, earliest: float, last: float) -> Iterator[dict[str, Any]]:
    """Each word as Whisper writes it, a space before it where the language has one; its times within the chunk."""
    for word in words:
        start = _within(earliest, at(word.start), last)
        end = _within(start, at(word.end, ends=True), last)
        yield {"word": word.word, "start": start, "end": end, "probability": round(float(word.probability), 4)}
        earliest = start


def _spoken(segment: Segment, speech: list[tuple[float, float]]) -> tuple[float, float]:
    """A segment's times, without the silence at its ends, and without the last sound of what was said before."""
    start, end = segment.start, segment.end
    touched = [(begins, ends) for begins, ends in speech if begins < end and start < ends]
    least = min(_SLIVER, (end - start) / 4)
    heard = [
        (begins, ends)
        for begins, ends in touched
        if min(end, ends) - max(start, begins) > min(least, (ends - begins) / 2)
    ] or touched
    return (max(start, heard[0][0]), min(end, heard[-1][1])) if heard else (start, end)


def _within(low: float, value: float, high: float) -> float:
    return round(float(min(max(value, low), high)), 3)
