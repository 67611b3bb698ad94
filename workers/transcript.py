"""The growing transcript of one recording: texts of pieces in, chunks, partials, checkpoints and the result out.

    piece + Heard ─▶ chunks on the recording's clock ─▶ partial for each ─▶ checkpoint (small: State)

A later attempt gets the last State and the chunks that were partials, and transcribes no finished piece again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from workers.base import Context

if TYPE_CHECKING:
    from media.speech import Cut, Piece

UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})
"""Languages written without spaces between words or sentences."""

SURE = 0.5
"""A language less probable than this is asked for again with the next piece, as faster-whisper does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What a model made of a piece.

    segments: with ``text``, ``start``, ``end`` and, when asked for, ``words``; seconds from the piece's beginning.
    """

    language: str | None = None
    probability: float = 0.0
    segments: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """A checkpoint. window: where the window in hand began; done: the end of the last finished piece; in samples."""

    window: int = 0
    done: int = 0
    chunks: int = 0
    language: str | None = None
    probability: float = 0.0


class Transcript:
    """One recording's chunks so far, going on from the context's checkpoint if there is one."""

    def __init__(self, ctx: Context, sample_rate: int, language: str | None, *, translated: bool) -> None:
        """sample_rate: of the pieces. language: the client's, None to detect it. translated: the text is English."""
        self._ctx = ctx
        self._rate = sample_rate
        self._translated = translated
        self._state = State(**ctx.checkpoint_data) if ctx.checkpoint_data else State()
        if language:
            self._state = dataclasses.replace(self._state, language=language, probability=1.0)
        self._chunks: list[dict[str, Any]] = list(ctx.finished[: self._state.chunks])
        self._began, self._began_at = time.monotonic(), self._state.done

    @property
    def window(self) -> int:
        """The sample from which the recording is to be cut."""
        return self._state.window

    @property
    def known_language(self) -> str | None:
        """The language that further pieces are in, once that is sure."""
        return self._state.language if self._state.probability >= SURE else None

    def unfinished(self, window: Cut) -> list[Piece]:
        """The window's pieces that no earlier attempt finished."""
        return [piece for piece in window.pieces if piece.end > self._state.done]

    def add(self, window: Cut, piece: Piece, heard: Heard) -> None:
        """Take in a piece's text."""
        for chunk in self._on_the_clock(piece, heard):
            self._ctx.partial(len(self._chunks), chunk)
            self._chunks.append(chunk)
        language, probability = self._state.language, self._state.probability
        if heard.language and heard.probability > probability and probability < SURE:
            language, probability = heard.language, heard.probability
        self._keep(State(window.start, piece.end, len(self._chunks), language, probability))

    def pass_over(self, window: Cut) -> None:
        """A window in which nobody speaks."""
        if window.stop > self._state.done:
            self._keep(dataclasses.replace(self._state, window=window.stop, done=window.stop))

    def progress(self, duration: float | None) -> tuple[float | None, float | None]:
        """(fraction, seconds left) by the time that the recording's work has taken so far."""
        if not duration:
            return None, None
        total = duration * self._rate
        pace = (time.monotonic() - self._began) / max(1, self._state.done - self._began_at)
        return min(1.0, self._state.done / total), max(0.0, total - self._state.done) * pace

    def result(self, duration: float) -> dict[str, Any]:
        """duration: of the recording, in seconds."""
        unspaced = self._state.language in UNSPACED and not self._translated
        text = ("" if unspaced else " ").join(chunk["text"] for chunk in self._chunks)
        language = self._state.language
        return {"text": text, "chunks": self._chunks, "language": language, "duration": round(duration, 3)}

    def _keep(self, state: State) -> None:
        self._state = state
        self._ctx.checkpoint(dataclasses.asdict(state))

    def _on_the_clock(self, piece: Piece, heard: Heard) -> Iterator[dict[str, Any]]:
        """Chunks in seconds from the recording's beginning, within the piece and in order.

        Whisper's times may lie beyond the piece, since it always hears 30 s, and may overlap. It also stretches the
        first word over the silence before it, where the voice detector knows better.
        """
        first, onset, last = (sample / self._rate for sample in (piece.start, piece.onset, piece.end))
        earliest = max(first, self._chunks[-1]["start"] if self._chunks else 0.0)
        for segment in heard.segments:
            text = segment.text.strip()
            if not text:
                continue
            begins = segment.words[0] if segment.words else segment
            if first + begins.start < onset < first + begins.end:
                earliest = max(earliest, onset)
            start = _within(earliest, first + segment.start, last)
            end = _within(start, first + segment.end, last)
            chunk: dict[str, Any] = {"start": start, "end": end, "text": text}
            if segment.words is not None:
                chunk["words"] = list(_words(segment.words, first, start, end))
            earliest = start
            yield chunk


def silent(duration: float | None) -> dict[str, Any]:
    """The result for a video without sound. duration: seconds, if known."""
    reason = "This video has no sound."
    return {"text": "", "chunks": [], "language": None, "duration": round(duration or 0.0, 3), "reason": reason}


def _words(words: list[Any], offset: float, earliest: float, last: float) -> Iterator[dict[str, Any]]:
    """Each word as Whisper writes it, a space before it where the language has one; its times within the chunk."""
    for word in words:
        start = _within(earliest, offset + word.start, last)
        end = _within(start, offset + word.end, last)
        yield {"word": word.word, "start": start, "end": end, "probability": round(float(word.probability), 4)}
        earliest = start


def _within(low: float, value: float, high: float) -> float:
    return round(float(min(max(value, low), high)), 3)
