"""Units of different recordings through Whisper together: CTranslate2's model, a pass at a time.

    audio ─▶ mel (n_mels, 3000) ─▶ encode ─▶ language, where it is open ─▶ generate, one prompt for each
                                      │                                        └▶ Try ─▶ segments ─▶ words by alignment
                                      └── kept with the unit, so that a second pass does not encode again

What is kept from a try and when another follows is as in Whisper's paper (Radford et al. 2022, section 4.5) and in
faster-whisper; here each try is a pass of its own, which shares its batch with those of others.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from media.audio import SAMPLE_RATE
from workers.hearing.lines import crosses, parted
from workers.hearing.segments import FRAME_SECONDS, Span, Split, loops, split, unlooped
from workers.hearing.units import CHANGED, TEMPERATURES, Outcome, Segment, Try, Unit, Word, best

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_SAMPLES_PER_FRAME = round(SAMPLE_RATE * FRAME_SECONDS)
_SAMPLES_OF_ONE = 5
"""Texts that a warm try samples, of which the likeliest counts."""
_MAX_TOKENS = 448
"""Prompt and text; the text may have half of them."""
_MAX_TEXT = _MAX_TOKENS // 2
_HINT_TOKENS = _MAX_TOKENS // 2 - 1
_LATEST_FIRST_WORD = 50
"""Timestamps (of 20 ms) before which the first segment has to begin."""
_LEAST_STEP = 100
"""Frames that every pass brings a piece forward, at least."""
_LEAST_REST = SAMPLE_RATE * 3 // 10
"""Samples that are left over after the last segment and worth hearing again; fewer are padding."""
_LEAST_MISSED = SAMPLE_RATE // 2
"""The same of speech that begins after what Whisper took for the end."""
_LEAST_CUT_OFF = 2 * SAMPLE_RATE
"""The same of speech that goes on beyond it."""
_BEFORE_SPEECH = SAMPLE_RATE // 5
_DOUBTED = 0.5
"""Whisper's probability that nobody speaks: 0.6 and more of music, noise and knocks, hardly 0.4 of words among them."""
_FRAMES = 3000
"""Frames that Whisper was trained to hear at once: 30 s."""
_QUICK_SILENCE, _QUICK_STEP = 800, 500
"""Frames of silence after the sound without which Whisper goes on writing, measured; lengths come in such steps."""
_QUICK_TOKENS, _QUICK_TOKENS_PER_FRAME = 16, 0.2
"""More than anybody says; a quick pass that repeats itself is to end soon."""
_LEADING, _TRAILING = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - Chinese and Japanese
"""Punctuation that belongs to the word after and to the word before it."""


class Decoder:
    """One loaded model. quick: for texts of the moment, greedy and without the silence up to 30 s."""

    def __init__(self, model: WhisperModel, beam_size: int, *, quick: bool = False) -> None:
        from faster_whisper.transcribe import get_suppressed_tokens

        self._model = model
        self._beam_size = beam_size
        self._quick = quick
        self._tokenizers: dict[tuple[str, str], Any] = {}
        self._suppressed = list(get_suppressed_tokens(self._tokenizer("en", "transcribe"), [-1]))
        self.on_cpu = model.model.device == "cpu"

    def hints(self, prompt: str | None, hotwords: str | None) -> tuple[int, ...]:
        """The tokens that stand before a unit's prompt; the hotwords' beginning and the prompt's end, if too long."""
        tokenizer = self._tokenizer("en", "transcribe")
        wanted = [tokenizer.encode(" " + text.strip()) if text and text.strip() else [] for text in (hotwords, prompt)]
        hot = wanted[0][: _HINT_TOKENS // 2 if wanted[1] else _HINT_TOKENS]
        before = wanted[1][len(hot) - _HINT_TOKENS :]
        return (tokenizer.sot_prev, *hot, *before) if hot or before else ()

    def frames(self, audio: Any) -> int:
        """How many frames of a piece are encoded; equally many for all that share a batch."""
        if not self._quick:
            return _FRAMES
        wanted = len(audio) // _SAMPLES_PER_FRAME + _QUICK_SILENCE
        return min(_FRAMES, -(-wanted // _QUICK_STEP) * _QUICK_STEP)

    def hear(self, units: list[Unit]) -> list[Outcome]:
        """One pass over each: units with audio, hints of one length and one temperature.

        Raises: RuntimeError by CTranslate2, when the device has not enough memory for one.
        """
        doubtful = [unit.encoded is None and not unit.sure for unit in units]
        encoded = self._encoded(units)
        silent = self._silent(encoded, doubtful)
        found = self._languages(units, encoded)
        heard: list[Outcome] = []
        ready = []
        writing = not all(unit.encode_only for unit in units)
        for index, (unit, outcome) in enumerate(zip(units, found, strict=True)):
            if silent[index]:
                heard.append(Outcome(language=unit.language))
                continue
            then = dataclasses.replace(unit, encoded=encoded[index], encode_only=False, language=outcome.language)
            heard.append(dataclasses.replace(outcome, then=then))
            if outcome.language is not None and writing:
                ready.append(index)
        tries = self._generate([heard[index].then for index in ready])
        for index, one in zip(ready, tries, strict=True):
            heard[index] = self._judged(heard[index], one)
        return heard

    def _encoded(self, units: list[Unit]) -> list[Any]:
        """float32 (1, frames / 2, width) for each; one at a time on a CPU, where encoding together gains nothing."""
        import ctranslate2

        made = [unit.encoded for unit in units]
        open_ = [index for index, known in enumerate(made) if known is None]
        size = 1 if self.on_cpu else len(open_)
        for first in range(0, len(open_), size):
            indices = open_[first : first + size]
            output = self._model.model.encode(_storage([self._mel(units[i].audio) for i in indices]), to_cpu=True)
            if output.dtype != ctranslate2.DataType.float32:
                output = output.to(ctranslate2.DataType.float32)
            rows = np.array(output)
            for row, index in enumerate(indices):
                made[index] = rows[row : row + 1]
        return made

    def _mel(self, audio: Any) -> Any:
        """float32 (1, n_mels, frames)."""
        from faster_whisper.audio import pad_or_trim

        mel = self._model.feature_extractor(audio)[:, : len(audio) // _SAMPLES_PER_FRAME]
        return pad_or_trim(mel, self.frames(audio))[np.newaxis]

    def _silent(self, encoded: list[Any], doubtful: list[bool]) -> list[bool]:
        """Whether Whisper takes what the voice detector doubts for something else; nothing is written for that.

        Whisper says so before the first word, whatever the hints are; what it would write is often likely all the same.
        """
        asked = [index for index, doubt in enumerate(doubtful) if doubt]
        silent = [False] * len(encoded)
        if asked:
            prompts = [[self._tokenizer("en", "transcribe").sot]] * len(asked)
            rows = _storage([encoded[index] for index in asked])
            said = self._model.model.generate(rows, prompts, beam_size=1, max_length=2, return_no_speech_prob=True)
            for index, result in zip(asked, said, strict=True):
                silent[index] = result.no_speech_prob > _DOUBTED
        return silent

    def _languages(self, units: list[Unit], encoded: list[Any]) -> list[Outcome]:
        """Only the language of each outcome is decided, and maybe not even that."""
        if not self._model.model.is_multilingual:
            return [Outcome(language="en") for _ in units]
        outcomes = [Outcome(language=unit.language) for unit in units]
        open_ = [index for index, unit in enumerate(units) if unit.language is None]
        if open_:
            ranked = self._model.model.detect_language(_storage([encoded[index] for index in open_]))
            for index, pairs in zip(open_, ranked, strict=True):
                detected = {token[2:-2]: float(probability) for token, probability in pairs}
                outcomes[index] = Outcome(language=_chosen(units[index], detected), detected=detected)
        return outcomes

    def _generate(self, units: list[Any]) -> list[Try]:
        if not units:
            return []
        temperature = units[0].temperature
        how: dict[str, Any] = {"beam_size": self._beam_size, "patience": 1}
        if temperature:
            how = {"beam_size": 1, "num_hypotheses": _SAMPLES_OF_ONE, "sampling_topk": 0}
            how["sampling_temperature"] = temperature
        prompts = [[*unit.hints, *self._tokenizer(unit.language, unit.task).sot_sequence] for unit in units]
        most = _QUICK_TOKENS + round(_QUICK_TOKENS_PER_FRAME * self.frames(units[0].audio))
        written = self._model.model.generate(
            _storage([unit.encoded for unit in units]),
            prompts,
            max_length=min(_MAX_TOKENS, len(prompts[0]) + most) if self._quick else _MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=self._suppressed,
            max_initial_timestamp_index=_LATEST_FIRST_WORD,
            **how,
        )
        return [self._tried(unit, result) for unit, result in zip(units, written, strict=True)]

    def _tried(self, unit: Unit, result: Any) -> Try:
        tokens = tuple(result.sequences_ids[0])
        score = result.scores[0] * len(tokens) / (len(tokens) + 1)  # the end's token counts too
        tokenizer = self._tokenizer(unit.language, unit.task)
        looped = loops(tokenizer.decode(tokens).strip(), tokens, tokenizer.timestamp_begin)
        return Try(tokens, score, result.no_speech_prob, looped)

    def _judged(self, outcome: Outcome, latest: Try) -> Outcome:
        """The try's segments and what is left of the piece, or a warmer try."""
        unit: Any = outcome.then
        tries = (*unit.tried, latest)
        if not latest.good and len(tries) < len(TEMPERATURES):
            return dataclasses.replace(outcome, then=dataclasses.replace(unit, tried=tries))
        kept = best(tries)
        if kept.silent:
            return dataclasses.replace(outcome, then=None)
        tokenizer = self._tokenizer(unit.language, unit.task)
        tokens = unlooped(kept.tokens, tokenizer.timestamp_begin) if kept.repeats else kept.tokens
        frames = len(unit.audio) // _SAMPLES_PER_FRAME
        parts = split(tokens, tokenizer.timestamp_begin, frames, whole=len(kept.tokens) < _MAX_TEXT)
        segments = self._segments(unit, parts, frames)
        seek = parts.seek
        if unit.words and not parts.closed and segments and segments[-1].end > 0:
            seek = round(segments[-1].end / FRAME_SECONDS)
        return _gone_on(dataclasses.replace(outcome, segments=segments), parts, seek)

    def _segments(self, unit: Unit, parts: Split, frames: int) -> tuple[Segment, ...]:
        tokenizer = self._tokenizer(unit.language, unit.task)
        pauses = _pauses(unit)
        texts = [tokenizer.decode(span.tokens) for span in parts.spans]
        uneven = any(crosses(*span[:2], text, pauses) for span, text in zip(parts.spans, texts, strict=True))
        timed = self._timed(unit, parts.spans, tokenizer, frames) if unit.words or uneven else None
        segments: list[Segment] = []
        for number, span in enumerate(parts.spans):
            start, end, words, text = span.start, span.end, None, texts[number]
            if timed is not None:
                start, end = float(timed[number]["start"]), float(timed[number]["end"])
                words = tuple(Word(**word) for word in timed[number]["words"])
            if text.strip() and start < end:
                segments += parted(Segment(start, end, text, words), pauses)
        return tuple(segments if unit.words else [dataclasses.replace(segment, words=None) for segment in segments])

    def _timed(self, unit: Unit, spans: tuple[Span, ...], tokenizer: Any, frames: int) -> list[dict[str, Any]]:
        """Start, end and words of each span, as faster-whisper finds them in the decoder's attention."""
        timed = [{"seek": 0, "start": span.start, "end": span.end, "tokens": list(span.tokens)} for span in spans]
        encoded = _storage([unit.encoded])
        self._model.add_word_timestamps(
            [timed], tokenizer, encoded, frames, _LEADING, _TRAILING, last_speech_timestamp=0.0
        )
        return timed

    def _tokenizer(self, language: str | None, task: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        multilingual = self._model.model.is_multilingual
        key = (language or "en", task)
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(self._model.hf_tokenizer, multilingual, task=task, language=key[0])
        return self._tokenizers[key]


def _pauses(unit: Unit) -> list[tuple[float, float]]:
    """Between a piece's spans of speech, in seconds; of a text for the moment none are looked for."""
    spans = () if unit.quick else unit.speech or ()
    return [(last.end / SAMPLE_RATE, first.start / SAMPLE_RATE) for last, first in pairwise(spans)]


def _gone_on(outcome: Outcome, parts: Split, seek: int) -> Outcome:
    """With the rest of the piece from a frame on, where somebody speaks there, as the next unit.

    Whisper sometimes ends early, at a pause, and says that nothing comes after; the voice detector knows better.
    """
    unit: Any = outcome.then
    heard = seek
    if parts.closed and unit.speech:
        heard = round(parts.spans[-1].end / FRAME_SECONDS)
    start = max(heard, _LEAST_STEP) * _SAMPLES_PER_FRAME
    if unit.speech is None:
        if len(unit.audio) - start < _LEAST_REST:
            return dataclasses.replace(outcome, then=None)
    else:
        missed = [
            span for span in unit.speech if span.end - max(span.start, start) >= _least(parts.closed, span, start)
        ]
        if not missed:
            return dataclasses.replace(outcome, then=None)
        start = max(start, missed[0].start - _BEFORE_SPEECH)
    speech = unit.speech and tuple(
        span._replace(start=max(0, span.start - start), end=span.end - start)
        for span in unit.speech
        if span.end > start
    )
    sure = unit.sure and unit.speech is None
    rest = dataclasses.replace(unit, audio=unit.audio[start:], speech=speech, sure=sure, encoded=None, tried=())
    return dataclasses.replace(outcome, then=rest, shift=start / SAMPLE_RATE)


def _least(closed: bool, span: Any, start: int) -> int:
    """Samples of speech that are worth hearing again: more where Whisper is through and may be a little early."""
    if not closed:
        return _LEAST_REST
    return _LEAST_MISSED if span.start >= start - _LEAST_REST else _LEAST_CUT_OFF


def _chosen(unit: Unit, detected: dict[str, float]) -> str | None:
    """The language to write a piece in, None to hear more of the recording first."""
    known = unit.evidence.plus(detected)
    own = max(detected, key=lambda code: detected[code])
    if unit.each:
        return own if detected[own] >= CHANGED else known.leader
    return known.leader if known.decided else None


def _storage(rows: list[Any]) -> Any:
    """CTranslate2's view of arrays joined at their first axis."""
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(np.concatenate(rows)))
