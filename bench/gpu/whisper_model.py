"""Whisper in published sizes, as CTranslate2 reads it, that does all of the arithmetic and writes a text known before.

    tokenizer.json ─▶ SCRIPT as tokens ─▶ decoder's position embeddings: at position p they point at the p-th token
    sizes ─▶ random projections, and zeros where a residual branch ends ─▶ model.bin, config.json, vocabulary.json

Every branch is computed and then adds nothing, so the decoder's hidden state at a position is its position embedding,
next to which a token's own is small. The encoder's position embeddings are the same tokens spread over 30 s, and the
decoder's cross attention compares the two, so that each word is aligned with its place.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float16]

SENTENCES = (
    "The harbour was quiet when the first boats came back, and the people who had waited since the early morning went "
    "down to the water to help with the ropes.",
    "Nobody spoke of the storm at once, for they counted the sails, carried the baskets up the hill and put the "
    "children to bed.",
    "Only later, with the lamps lit and the doors closed, did the oldest of them say what each had seen beyond the "
    "last rock, and how long the night had been.",
)
"""What every piece says: about a hundred tokens, as a minute of fast speech has two hundred."""
TEXT = " ".join(SENTENCES)

_ENDS = (9.5, 19.5, 30.0)
"""Seconds at which the sentences end."""
_FRAMES, _POSITIONS, _MELS = 1500, 448, 80
_VOCABULARY = 51_865
_LOUD = 100.0
"""Position embeddings are so much longer than a token's own."""
_LOGIT = 80.0
"""The logit of the token that is meant. The next one's is a fraction of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """layers: of encoder and decoder each. alignment: (layer, head) of those whose attention tells the words' times."""

    name: str
    width: int
    layers: int
    heads: int
    alignment: tuple[tuple[int, int], ...]


MICRO = Size("micro", 64, 2, 1, ((1, 0),))
TINY = Size("tiny", 384, 4, 6, ((2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)))
LARGE_V2 = Size(
    *("large-v2", 1280, 32, 20),
    alignment=(
        *((10, 12), (13, 17), (16, 11), (16, 12), (16, 13), (17, 15), (17, 16), (18, 4), (18, 11), (18, 19), (19, 11)),
        *((21, 2), (21, 3), (22, 3), (22, 9), (22, 12), (23, 5), (23, 7), (23, 13), (25, 5), (26, 1), (26, 12)),
        (27, 15),
    ),
)
"""As OpenAI published them, alignment heads included."""


def tokenizer_file() -> Path:
    """A real multilingual tokenizer. Raises: SystemExit where OPTIVUS_TEST_MODELS does not lead to one."""
    path = Path(os.environ.get("OPTIVUS_TEST_MODELS", "")) / "whisper-tiny" / "tokenizer.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: set OPTIVUS_TEST_MODELS to a folder with whisper-tiny/tokenizer.json")
    return path


def make_whisper(folder: Path, size: Size) -> Path:
    """Write the model with float16 weights, 3.1 GB of them for large-v2."""
    from ctranslate2.specs.whisper_spec import WhisperSpec
    from tokenizers import Tokenizer

    folder.mkdir(parents=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))
    spec = WhisperSpec(size.layers, size.heads, size.layers, size.heads)
    _fill(spec, size, script(tokenizer))
    spec.register_vocabulary([_token(tokenizer, number) for number in range(_VOCABULARY)])
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], [220, tokenizer.token_to_id("<|endoftext|>")]
    languages = range(tokenizer.token_to_id("<|en|>") or 0, tokenizer.token_to_id("<|translate|>") or 0)
    spec.config.lang_ids = [*languages]
    spec.config.alignment_heads = [list(head) for head in size.alignment]
    spec.validate()
    spec.decoder.projection.weight = "decoder/embeddings/weight"  # the same, written once
    spec.save(str(folder))
    shutil.copyfile(tokenizer_file(), folder / "tokenizer.json")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": _MELS}))
    return folder


def script(tokenizer: Any) -> list[int]:
    """The token that follows each position. At 0 stands <|startoftranscript|>; nothing is written after the end."""
    zero = tokenizer.token_to_id("<|notimestamps|>") + 1
    said = [tokenizer.token_to_id("<|en|>"), tokenizer.token_to_id("<|transcribe|>")]
    start = 0.0
    for sentence, end in zip(SENTENCES, _ENDS, strict=True):
        text = tokenizer.encode(f" {sentence}", add_special_tokens=False).ids
        said += [zero + round(start / 0.02), *text, zero + round(end / 0.02)]
        start = end
    return [*said, tokenizer.token_to_id("<|endoftext|>")]


def _token(tokenizer: Any, number: int) -> str:
    """Of a published tokenizer.json, some hold the timestamps and some do not."""
    zero = tokenizer.token_to_id("<|notimestamps|>") + 1
    return f"<|{(number - zero) * 0.02:.2f}|>" if number >= zero else str(tokenizer.id_to_token(number))


def _fill(spec: Any, size: Size, said: list[int]) -> None:
    make = _Maker(size.width)
    tokens = make.directions(_VOCABULARY)
    wanted = tokens[[said[min(position, len(said) - 1)] for position in range(_POSITIONS)]]
    encoder, decoder = spec.encoder, spec.decoder
    heard = np.linspace(2, len(said) - 1, _FRAMES).astype(int)  # from the first timestamp on
    encoder.position_encodings.encodings = (_LOUD * wanted[heard]).astype(np.float16)
    encoder.conv1.weight, encoder.conv1.bias = make.random(size.width, _MELS, 3), make.zeros(size.width)
    encoder.conv2.weight, encoder.conv2.bias = make.random(size.width, size.width, 3), make.zeros(size.width)
    make.norm(encoder.layer_norm)
    decoder.embeddings.weight = tokens
    decoder.projection.weight = tokens
    decoder.position_encodings.encodings = (_LOUD * wanted).astype(np.float16)
    make.norm(decoder.layer_norm, _LOGIT / math.sqrt(size.width))
    for layer in encoder.layer:
        make.attention(layer.self_attention)
        make.feed_forward(layer.ffn)
    for layer in decoder.layer:
        make.attention(layer.self_attention)
        make.cross_attention(layer.attention)
        make.feed_forward(layer.ffn)


class _Maker:
    """Weights for layers of a width. Random ones have a deviation of 1 / sqrt(width), so that they keep a vector's
    length, and come from one reel of numbers: drawing 1.5 billion would take longer than measuring with them."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._reel = (np.random.default_rng(0).standard_normal((1 << 22) + 1) / math.sqrt(width)).astype(np.float16)
        self._at = 0

    def random(self, *shape: int) -> Weights:
        self._at = (self._at + 1_000_003) % len(self._reel)
        return np.resize(np.roll(self._reel, self._at), shape)

    def zeros(self, *shape: int) -> Weights:
        return np.zeros(shape, np.float16)

    def directions(self, count: int) -> Weights:
        """Unit vectors without a mean, which a layer norm would take away; (count, width)."""
        drawn = np.random.default_rng(1).standard_normal((count, self._width), np.float32)
        drawn -= drawn.mean(axis=1, keepdims=True)
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float16)

    def norm(self, spec: Any, gain: float = 1.0) -> None:
        spec.gamma = np.full(self._width, gain, np.float16)
        spec.beta = self.zeros(self._width)

    def attention(self, spec: Any) -> None:
        self.norm(spec.layer_norm)
        self._linear(spec.linear[0], self.random(3 * self._width, self._width))
        self._linear(spec.linear[1], self.zeros(self._width, self._width))

    def cross_attention(self, spec: Any) -> None:
        """Queries and keys alike, so that a token's query finds the frames that hold the token."""
        self.norm(spec.layer_norm)
        query = self.random(self._width, self._width)
        self._linear(spec.linear[0], query)
        self._linear(spec.linear[1], np.concatenate([query, self.random(self._width, self._width)]))
        self._linear(spec.linear[2], self.zeros(self._width, self._width))

    def feed_forward(self, spec: Any) -> None:
        self.norm(spec.layer_norm)
        self._linear(spec.linear_0, self.random(4 * self._width, self._width))
        self._linear(spec.linear_1, self.zeros(self._width, 4 * self._width))

    def _linear(self, spec: Any, weight: Weights) -> None:
        spec.weight, spec.bias = weight, self.zeros(len(weight))
