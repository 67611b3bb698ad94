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
from workers.whisper.alignment import aligned, text_tokens, words_of
from workers.whisper.device import storage
from workers.whisper.echo import echoes, once
from workers.whisper.lines import crosses, parted
from workers.whisper.rest import SAMPLES_PER_FRAME, gone_on, unsure
from workers.whisper.segments import Split, loops, split, unlooped
from workers.whisper.silences import sounding
from workers.whisper.units import CHANGED, TEMPERATURES, Outcome, Segment, Try, Unit, best
from workers.whisper.words import says_something

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_SAMPLES_OF_ONE = 5
"""A warm try samples so many texts, of which the likeliest counts."""
_MAX_TOKENS = 448
"""Tokens of prompt and text together; the text may have half of them."""
_MAX_TEXT = _MAX_TOKENS // 2
_HINT_TOKENS = _MAX_TOKENS // 2 - 1
_LATEST_FIRST_WORD = 50
"""The first segment has to begin before so many timestamps, of 20 ms each."""
_ECHO_TOKENS = 12
"""Tokens by which a repetition of the hints is judged: the first ones, since each makes the next ones likely."""
_MIN_ECHO_SCORE = -1.5
"""Least mean log probability of those tokens without the hints. Measured: -0.2 to -0.4 where they are said, -2.5 to
-3.4 where they are not."""
_PAUSE = 0.5
"""Seconds of silence between two sentences that part a line."""
_DOUBTED = 0.5
"""Whisper's probability that nobody speaks. It is 0.6 and more for music, noise and knocks, hardly 0.4 for words."""
_FRAMES = 3000
"""Frames that Whisper was trained to hear at once: 30 s."""
_QUICK_SILENCE, _QUICK_STEP = 800, 500
"""Frames of silence that follow the sound, because Whisper goes on writing without them, as measured. Lengths are whole
steps of this."""
_QUICK_TOKENS, _QUICK_TOKENS_PER_FRAME = 16, 0.2
"""Most tokens of a quick pass: a number, and more for each frame. Nobody says as much, so a text that repeats itself
ends soon."""


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
        given = [once((text or "").strip()) for text in (hotwords, prompt)]
        wanted = [tokenizer.encode(f" {text}") if text else [] for text in given]
        hot = wanted[0][: _HINT_TOKENS // 2 if wanted[1] else _HINT_TOKENS]
        before = wanted[1][len(hot) - _HINT_TOKENS :]
        return (tokenizer.sot_prev, *hot, *before) if hot or before else ()

    def frames(self, audio: Any) -> int:
        """How many frames of a piece are encoded; equally many for all that share a batch."""
        if not self._quick:
            return _FRAMES
        wanted = len(audio) // SAMPLES_PER_FRAME + _QUICK_SILENCE
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
        """float32 (1, frames / 2, width) for each unit. A CPU encodes one by one, since a batch gains nothing."""
        import ctranslate2

        made = [unit.encoded for unit in units]
        open_ = [index for index, known in enumerate(made) if known is None]
        size = 1 if self.on_cpu else len(open_)
        for first in range(0, len(open_), size):
            indices = open_[first : first + size]
            output = self._model.model.encode(storage([self._mel(units[i].audio) for i in indices]), to_cpu=True)
            if output.dtype != ctranslate2.DataType.float32:
                output = output.to(ctranslate2.DataType.float32)
            rows = np.array(output)
            for row, index in enumerate(indices):
                made[index] = rows[row : row + 1]
        return made

    def _mel(self, audio: Any) -> Any:
        """float32 (1, n_mels, frames)."""
        from faster_whisper.audio import pad_or_trim

        mel = self._model.feature_extractor(audio)[:, : len(audio) // SAMPLES_PER_FRAME]
        return pad_or_trim(mel, self.frames(audio))[np.newaxis]

    def _silent(self, encoded: list[Any], doubtful: list[bool]) -> list[bool]:
        """Whether Whisper takes what the voice detector doubts for something else; nothing is written for that.

        Whisper says so before the first word, whatever the hints are; what it would write is often likely all the same.
        """
        asked = [index for index, doubt in enumerate(doubtful) if doubt]
        silent = [False] * len(encoded)
        if asked:
            prompts = [[self._tokenizer("en", "transcribe").sot]] * len(asked)
            rows = storage([encoded[index] for index in asked])
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
            ranked = self._model.model.detect_language(storage([encoded[index] for index in open_]))
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
            storage([unit.encoded for unit in units]),
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
        score = result.scores[0] * len(tokens) / (len(tokens) + 1)  # the token of the text's end counts too
        tokenizer = self._tokenizer(unit.language, unit.task)
        looped = loops(tokenizer.decode(tokens).strip(), tokens, tokenizer.timestamp_begin)
        return Try(tokens, score, result.no_speech_prob, looped)

    def _judged(self, outcome: Outcome, latest: Try) -> Outcome:
        """The try's segments and what is left of the piece, or a warmer try."""
        unit: Any = outcome.then
        tokenizer = self._tokenizer(unit.language, unit.task)
        frames = len(unit.audio) // SAMPLES_PER_FRAME
        if unit.hints and self._echoed(unit, latest, split(latest.tokens, tokenizer.timestamp_begin, frames)):
            return dataclasses.replace(outcome, then=dataclasses.replace(unit, hints=(), tried=()))
        tries = (*unit.tried, latest)
        if not latest.good and len(tries) < len(TEMPERATURES):
            return dataclasses.replace(outcome, then=dataclasses.replace(unit, tried=tries))
        kept = best(tries)
        if kept.silent:
            return dataclasses.replace(outcome, then=None)
        tokens = unlooped(kept.tokens, tokenizer.timestamp_begin) if kept.repeats else kept.tokens
        parts = split(tokens, tokenizer.timestamp_begin, frames, whole=len(kept.tokens) < _MAX_TEXT)
        segments, said = self._segments(unit, parts)
        return gone_on(dataclasses.replace(outcome, segments=segments), parts, said)

    def _echoed(self, unit: Unit, latest: Try, parts: Split) -> bool:
        """Whether a text repeats the hints instead of what is said: it loops, or is unlikely without the hints."""
        tokenizer = self._tokenizer(unit.language, unit.task)
        lines = text_tokens(parts.spans, tokenizer)
        hints = tokenizer.decode(unit.hints[1:])
        echo = next((number for number, line in enumerate(lines) if echoes(tokenizer.decode(line), hints)), None)
        if echo is None or latest.repeats:
            return echo is not None
        before = sum(map(len, lines[:echo]))
        found = aligned(self._model, tokenizer, unit, [token for line in lines for token in line])
        likely = np.array(found.text_token_probs[before : before + len(lines[echo])][:_ECHO_TOKENS])
        return bool(np.log(likely + 1e-9).mean() < _MIN_ECHO_SCORE)

    def _segments(self, unit: Unit, parts: Split) -> tuple[tuple[Segment, ...], float | None]:
        """The segments, and the second at which the last word ends, if there was reason to look."""
        tokenizer = self._tokenizer(unit.language, unit.task)
        pauses = _pauses(unit)
        texts = [tokenizer.decode(span.tokens) for span in parts.spans]
        uneven = any(crosses(*span[:2], text, pauses) for span, text in zip(parts.spans, texts, strict=True))
        looked = unit.words or uneven or unsure(unit, parts)
        timed = words_of(self._model, tokenizer, unit, parts.spans, _sounds(unit)) if looked else None
        segments: list[Segment] = []
        for number, (span, text) in enumerate(zip(parts.spans, texts, strict=True)):
            if timed is None:
                if says_something(text) and span.start < span.end:
                    segments.append(Segment(span.start, span.end, text))
            elif words := timed[number]:
                segments += parted(Segment(words[0].start, words[-1].end, text, words), pauses)
        said = segments[-1].end if segments and looked else None
        if not unit.words:
            segments = [dataclasses.replace(segment, words=None) for segment in segments]
        return tuple(segments), said

    def _tokenizer(self, language: str | None, task: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        multilingual = self._model.model.is_multilingual
        key = (language or "en", task)
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(self._model.hf_tokenizer, multilingual, task=task, language=key[0])
        return self._tokenizers[key]


def _sounds(unit: Any) -> list[tuple[float, float]]:
    """Seconds between which something can be heard, and somebody speaks if that is known."""
    speech = [(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in unit.speech or ()]
    return sounding(unit.audio, speech)


def _pauses(unit: Unit) -> list[tuple[float, float]]:
    """Silences within a piece, in seconds; in a text for the moment none are looked for."""
    sounds = () if unit.quick or not unit.speech else _sounds(unit)
    return [(last[1], first[0]) for last, first in pairwise(sounds) if first[0] - last[1] >= _PAUSE]


def _chosen(unit: Unit, detected: dict[str, float]) -> str | None:
    """The language to write a piece in, None to hear more of the recording first."""
    known = unit.evidence.plus(detected)
    own = max(detected, key=lambda code: detected[code])
    if unit.each:
        return own if detected[own] >= CHANGED else known.leader
    return known.leader if known.decided else None
