"""Whisper around a stand-in for a GPU: it takes as long as one would, computes nothing, and knows what it writes.

Everything else is the worker that is shipped, on its way for GPUs: decoding, voice detection, mel, text, words.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import ctranslate2
import numpy as np
from pydantic import Field

from bench.gpu.whisper_model import SENTENCES
from workers.whisper.worker import Whisper, WhisperSettings

PIECE_SECONDS = 30
BATCH_SECONDS = 1.5
"""What a full batch takes, at any speed: a faster GPU has room for a larger one."""
FIXED = 0.5
"""The share of a full batch's time that a batch of one piece takes too: a GPU reads its weights for few as for many."""


class FedSettings(WhisperSettings):
    """model: a small Whisper, for its tokenizer. speed: seconds of sound that full batches take in a second."""

    model: str = Field("", alias="AI_FED_MODEL")
    batch: int | None = Field(None, ge=1, le=256, alias="FED_BATCH")
    speed: float = Field(200, gt=0)


class Fed(Whisper):
    name = "fed"
    message_type = "fed"
    answer = {"fed": "$fed"}
    Settings = FedSettings
    warm_up = False

    def load(self) -> dict[str, Any]:
        facts = super().load()
        self.batch = max(1, round(self.settings.speed * BATCH_SECONDS / PIECE_SECONDS))
        self._pace, self._detectors = None, max(1, self.settings.threads)
        self._model.model = StandIn(self._model, self.settings.speed, self.batch)
        for decoder in (self._decoder, self._quick):
            decoder._alone = False
        return facts


class StandIn:
    """What `decoding` asks of CTranslate2's model. Sleeping lets go of the interpreter, as computing on a GPU does."""

    is_multilingual = True

    def __init__(self, model: Any, speed: float, batch: int) -> None:
        self.n_mels = model.model.n_mels
        self._full = batch * PIECE_SECONDS / speed
        self._batch = batch
        tokenizer = model.hf_tokenizer
        first = tokenizer.token_to_id("<|notimestamps|>") + 1
        step = PIECE_SECONDS * 50 // len(SENTENCES)
        self._tokens = []
        for number, sentence in enumerate(SENTENCES):
            said = tokenizer.encode(f" {sentence}", add_special_tokens=False).ids
            self._tokens += [first + number * step, *said, first + (number + 1) * step]

    def _take(self, share: float, pieces: int) -> None:
        time.sleep(share * self._full * (FIXED + (1 - FIXED) * pieces / self._batch))

    def encode(self, features: Any, to_cpu: bool) -> Any:
        pieces = features.shape[0]
        self._take(0.15, pieces)
        return ctranslate2.StorageView.from_array(np.zeros((pieces, 1500, 8), np.float32))

    def detect_language(self, encoded: Any) -> list[Any]:
        self._take(0.02, encoded.shape[0])
        return [[("<|en|>", 0.99), ("<|de|>", 0.01)]] * encoded.shape[0]

    def generate(self, encoded: Any, prompts: list[Any], max_length: int = 448, **how: Any) -> list[Any]:
        self._take(0.8 if max_length > 2 else 0.02, len(prompts))
        score = {"scores": [-0.2], "no_speech_prob": 0.01}
        return [SimpleNamespace(sequences_ids=[self._tokens], **score) for _ in prompts]

    def align(self, encoded: Any, start: list[int], texts: list[list[int]], frames: list[int]) -> list[Any]:
        self._take(0.05, len(texts))
        aligned = []
        for text, length in zip(texts, frames, strict=True):
            places = np.linspace(0, length // 2, len(text) + 1).astype(int).tolist()
            pairs = list(enumerate(places))
            aligned.append(SimpleNamespace(alignments=pairs, text_token_probs=[0.9] * len(text)))
        return aligned
