"""Units of different recordings through Whisper together: CTranslate2's model, a pass at a time.

    mel (n_mels, 3000) ─▶ encode ─▶ language, where it is open ─▶ generate, one prompt for each ─▶ align, where words
                             │                                                                     are looked for
                             └── kept with the unit, so that a second pass does not encode again

Only what needs the model is done here, since nobody else computes meanwhile. What stands before and after it, `reading`
does. What is kept from a try and when another follows is as in Whisper's paper (Radford et al. 2022, section 4.5) and
in faster-whisper; here each try is a pass of its own, which shares its batch with those of others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.whisper.alignment import Text, align
from workers.whisper.device import storage
from workers.whisper.echo import echoes
from workers.whisper.encoded import Row, joined, rows
from workers.whisper.reading import encoded_frames, kept_parts, looked_for
from workers.whisper.rest import frames
from workers.whisper.segments import loops, split
from workers.whisper.tokens import MAX_TOKENS, Tokenizers
from workers.whisper.units import CHANGED, Pass, Try, Unit

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_SAMPLES_OF_ONE = 5
"""A warm try samples so many texts, of which the likeliest counts."""
_LATEST_FIRST_WORD = 50
"""The first segment has to begin before so many timestamps, of 20 ms each."""
_ECHO_TOKENS = 12
"""Tokens by which a repetition of the hints is judged: the first ones, since each makes the next ones likely."""
_MIN_ECHO_SCORE = -1.5
"""Least mean log probability of those tokens without the hints. Measured: -0.2 to -0.4 where they are said, -2.5 to
-3.4 where they are not."""
_DOUBTED = 0.5
"""Whisper's probability that nobody speaks. It is 0.6 and more for music, noise and knocks, hardly 0.4 for words."""
_QUICK_TOKENS, _QUICK_TOKENS_PER_FRAME = 16, 0.2
"""Most tokens of a quick pass: a number, and more for each frame. Nobody says as much, so a text that repeats itself
ends soon."""


class Decoder:
    """One loaded model. quick: for texts of the moment, greedy and without the silence up to 30 s.

    resident: whether what was encoded stays where the model is.
    """

    def __init__(
        self,
        model: WhisperModel,
        tokenizers: Tokenizers,
        beam_size: int,
        *,
        quick: bool = False,
        resident: bool = False,
    ) -> None:
        from faster_whisper.transcribe import get_suppressed_tokens

        self._model = model
        self._tokenizers = tokenizers
        self._beam_size = beam_size
        self._quick = quick
        self._resident = resident
        self._suppressed = list(get_suppressed_tokens(tokenizers.of("en", "transcribe"), [-1]))
        self._alone = model.model.device == "cpu"
        """A CPU encodes and aligns one piece after the other, since a batch gains nothing there."""

    def hear(self, units: list[Unit]) -> list[Pass]:
        """One pass over each: prepared units with hints of one length and one temperature.

        Raises: RuntimeError by CTranslate2, when the device has not enough memory for one.
        """
        doubtful = [unit.encoded is None and not unit.sure for unit in units]
        writing = not all(unit.encode_only for unit in units)
        units = self._encoded(units)
        silent = self._silent(units, doubtful)
        passes = self._languages(units)
        passes = [
            dataclasses.replace(one, silent=True, unit=unit, detected=None) if nobody else one
            for one, unit, nobody in zip(passes, units, silent, strict=True)
        ]
        ready = [index for index, one in enumerate(passes) if writing and one.unit.language and not one.silent]
        if ready:
            for index, one in zip(ready, self._written([passes[index] for index in ready]), strict=True):
                passes[index] = one
        return passes

    def _encoded(self, units: Sequence[Unit]) -> list[Unit]:
        """The units with what they were encoded as, and without their mel, which nobody needs any more."""
        open_ = [index for index, unit in enumerate(units) if unit.encoded is None]
        made: dict[int, Row] = {}
        size = 1 if self._alone else max(1, len(open_))
        for first in range(0, len(open_), size):
            indices = open_[first : first + size]
            made |= zip(indices, rows(self._encode([units[index].mel for index in indices])), strict=True)
        return [
            dataclasses.replace(unit, encoded=made.get(index, unit.encoded), mel=None, encode_only=False)
            for index, unit in enumerate(units)
        ]

    def _encode(self, mels: list[Any]) -> Any:
        import ctranslate2

        output = self._model.model.encode(storage(mels), to_cpu=not self._resident)
        readable = (ctranslate2.DataType.float32, ctranslate2.DataType.float16)[: 2 if self._resident else 1]
        return output if output.dtype in readable else output.to(ctranslate2.DataType.float32)

    def _silent(self, units: Sequence[Unit], doubtful: Sequence[bool]) -> list[bool]:
        """Whether Whisper takes what the voice detector doubts for something else; nothing is written for that.

        Whisper says so before the first word, whatever the hints are; what it would write is often likely all the same.
        """
        asked = [index for index, doubt in enumerate(doubtful) if doubt]
        silent = [False] * len(units)
        if asked:
            prompts = [[self._tokenizers.of("en", "transcribe").sot]] * len(asked)
            some = _joined([units[index] for index in asked])
            said = self._model.model.generate(some, prompts, beam_size=1, max_length=2, return_no_speech_prob=True)
            for index, result in zip(asked, said, strict=True):
                silent[index] = result.no_speech_prob > _DOUBTED
        return silent

    def _languages(self, units: Sequence[Unit]) -> list[Pass]:
        """Only the language of each is decided, and maybe not even that."""
        if not self._model.model.is_multilingual:
            return [Pass(dataclasses.replace(unit, language="en")) for unit in units]
        passes = [Pass(unit) for unit in units]
        open_ = [index for index, unit in enumerate(units) if unit.language is None]
        if open_:
            ranked = self._model.model.detect_language(_joined([units[index] for index in open_]))
            for index, pairs in zip(open_, ranked, strict=True):
                detected = {token[2:-2]: float(probability) for token, probability in pairs}
                chosen = _chosen(units[index], detected)
                passes[index] = Pass(dataclasses.replace(units[index], language=chosen), detected)
        return passes

    def _written(self, passes: Sequence[Pass]) -> list[Pass]:
        """The passes with a try each, judged as far as the model is needed for it."""
        tries = self._generate([one.unit for one in passes])
        echoed = self._echoed([one.unit for one in passes], tries)
        judged = []
        for one, latest, echo in zip(passes, tries, echoed, strict=True):
            unit = dataclasses.replace(one.unit, tried=(*one.unit.tried, latest))
            parts = None if echo else kept_parts(unit, self._tokenizers)
            judged.append(dataclasses.replace(one, unit=unit, echo=echo, parts=parts))
        return self._aligned(judged)

    def _generate(self, units: Sequence[Unit]) -> list[Try]:
        temperature = units[0].temperature
        how: dict[str, Any] = {"beam_size": self._beam_size, "patience": 1}
        if temperature:
            how = {"beam_size": 1, "num_hypotheses": _SAMPLES_OF_ONE, "sampling_topk": 0}
            how["sampling_temperature"] = temperature
        prompts = [[*unit.hints, *self._tokenizers.of(unit.language, unit.task).sot_sequence] for unit in units]
        most = _QUICK_TOKENS + round(_QUICK_TOKENS_PER_FRAME * encoded_frames(units[0]))
        written = self._model.model.generate(
            _joined(units),
            prompts,
            max_length=min(MAX_TOKENS, len(prompts[0]) + most) if self._quick else MAX_TOKENS,
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
        tokenizer = self._tokenizers.of(unit.language, unit.task)
        looped = loops(tokenizer.decode(tokens).strip(), tokens, tokenizer.timestamp_begin)
        return Try(tokens, score, result.no_speech_prob, looped)

    def _echoed(self, units: Sequence[Unit], tries: Sequence[Try]) -> list[bool]:
        """Whether each text repeats its hints instead of what is said: it loops, or is unlikely without the hints."""
        echoed = [False] * len(units)
        suspects: list[tuple[int, int, Text]] = []
        for index, (unit, latest) in enumerate(zip(units, tries, strict=True)):
            if not unit.hints:
                continue
            tokenizer = self._tokenizers.of(unit.language, unit.task)
            text = Text(unit, split(latest.tokens, tokenizer.timestamp_begin, frames(unit)).spans, tokenizer)
            hints = tokenizer.decode(unit.hints[1:])
            lines = enumerate(text.lines)
            echo = next((number for number, line in lines if echoes(tokenizer.decode(line), hints)), None)
            if echo is not None and latest.repeats:
                echoed[index] = True
            elif echo is not None:
                suspects.append((index, echo, text))
        found = align(self._model, [text for _, _, text in suspects], alone=self._alone)
        for (index, echo, text), alignment in zip(suspects, found, strict=True):
            before = sum(map(len, text.lines[:echo]))
            likely = np.array(alignment.text_token_probs[before : before + len(text.lines[echo])][:_ECHO_TOKENS])
            echoed[index] = bool(np.log(likely + 1e-9).mean() < _MIN_ECHO_SCORE)
        return echoed

    def _aligned(self, passes: list[Pass]) -> list[Pass]:
        """With the alignment of those whose words are looked for."""
        wanted: dict[int, Text] = {}
        for index, one in enumerate(passes):
            tokenizer = self._tokenizers.of(one.unit.language, one.unit.task)
            if one.parts is not None and looked_for(one.unit, one.parts, tokenizer):
                wanted[index] = Text(one.unit, one.parts.spans, tokenizer)
        found = dict(zip(wanted, align(self._model, list(wanted.values()), alone=self._alone), strict=True))
        return [dataclasses.replace(one, alignment=found.get(index)) for index, one in enumerate(passes)]


def _joined(units: Sequence[Unit]) -> Any:
    return joined([unit.encoded for unit in units if unit.encoded is not None])


def _chosen(unit: Unit, detected: dict[str, float]) -> str | None:
    """The language to write a piece in, None to hear more of the recording first."""
    known = unit.evidence.plus(detected)
    own = max(detected, key=lambda code: detected[code])
    if unit.each:
        return own if detected[own] >= CHANGED else known.leader
    return known.leader if known.decided else None
