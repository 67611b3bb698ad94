"""The tokenizers of one model, and the hints that stand before a prompt as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workers.whisper.echo import once

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

MAX_TOKENS = 448
"""Tokens of prompt and text together; the text may have half of them."""
MAX_TEXT = MAX_TOKENS // 2
_HINT_TOKENS = MAX_TOKENS // 2 - 1


class Tokenizers:
    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self._made: dict[tuple[str, str], Tokenizer] = {}

    def of(self, language: str | None, task: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        key = (language or "en", task)
        if key not in self._made:
            multilingual = self._model.model.is_multilingual
            self._made[key] = Tokenizer(self._model.hf_tokenizer, multilingual, task=task, language=key[0])
        return self._made[key]

    def hints(self, prompt: str | None, hotwords: str | None) -> tuple[int, ...]:
        """The tokens that stand before a unit's prompt; the hotwords' beginning and the prompt's end, if too long."""
        tokenizer = self.of("en", "transcribe")
        given = [once((text or "").strip()) for text in (hotwords, prompt)]
        wanted = [tokenizer.encode(f" {text}") if text else [] for text in given]
        hot = wanted[0][: _HINT_TOKENS // 2 if wanted[1] else _HINT_TOKENS]
        before = wanted[1][len(hot) - _HINT_TOKENS :]
        return (tokenizer.sot_prev, *hot, *before) if hot or before else ()
