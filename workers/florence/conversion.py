"""A Florence-2 checkpoint of Microsoft's code, rewritten as transformers' own: the same numbers under other names.

    config.json ─▶ Florence2Config        weights ─▶ renamed by RENAMED, one turned, tied copies left out
    tokenizer.json ─▶ with the model's special tokens, which that code adds as it runs, and <image>

`transformers` keeps such a table for Microsoft's repositories in its conversion script, which runs their code; this one
reads files only.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

IMAGE = "<image>"
_PAIRS = ("cap", "ncap", "dcap", "grounding", "seg")
SPECIAL_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{number}>" for number in range(1000)),
    *(token for name in _PAIRS for token in (f"<{name}>", f"</{name}>")),
    *("<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>"),  # sic
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)
"""In the order of their ids, which follow the text tokens'."""

RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^vision_tower\.convs\.(\d+)\.proj\.", r"model.vision_tower.convs.\1.conv."),
        (r"^vision_tower\.convs\.", "model.vision_tower.convs."),
        (r"^vision_tower\.blocks\.(.+_block)\.(conv\d)\.fn\.dw\.", r"model.vision_tower.blocks.\1.\2."),
        (r"^vision_tower\.blocks\.(.+_block)\.(?:window|channel)_attn\.norm\.", r"model.vision_tower.blocks.\1.norm1."),
        (r"^vision_tower\.blocks\.(.+_block)\.(window|channel)_attn\.fn\.", r"model.vision_tower.blocks.\1.\2_attn."),
        (r"^vision_tower\.blocks\.(.+_block)\.ffn\.norm\.", r"model.vision_tower.blocks.\1.norm2."),
        (r"^vision_tower\.blocks\.(.+_block)\.ffn\.fn\.net\.", r"model.vision_tower.blocks.\1.ffn."),
        (r"^image_projection$", "model.multi_modal_projector.image_projection.weight"),
        (r"^image_proj_norm\.", "model.multi_modal_projector.image_proj_norm."),
        (r"^image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
        (r"^visual_temporal_embed\.", "model.multi_modal_projector.visual_temporal_embed."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    )
)
"""Names of Microsoft's weights → transformers'; the first that fits."""

_TIED = re.compile(r"^(?:lm_head|model\.language_model\.(?:en|de)coder\.embed_tokens)\.weight$")
_SHARED = "model.language_model.shared.weight"
_UNUSED = frozenset({"language_model.final_logits_bias"})
"""Zeros, in every checkpoint that BART's code writes."""
_GENERATION = (
    *("num_beams", "no_repeat_ngram_size", "early_stopping", "forced_bos_token_id", "forced_eos_token_id"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
)
_ROWS = 64
"""Vocabularies are padded to a multiple of this, which matrix products like."""


def write_native(source: Path, folder: Path) -> None:
    """Raises: whatever reading a damaged or foreign checkpoint raises."""
    import torch
    from transformers import Florence2ForConditionalGeneration, Florence2Processor
    from transformers.utils import logging

    logging.disable_progress_bar()
    original = json.loads((source / "config.json").read_bytes())
    tokenizer = _tokenizer(source, original["text_config"]["vocab_size"])
    processor = Florence2Processor(_image_processor(source), tokenizer, post_processor_config={})
    weights = {renamed(name): tensor for name, tensor in _weights(source).items() if name not in _UNUSED}
    projection = "model.multi_modal_projector.image_projection.weight"
    weights[projection] = weights[projection].T.contiguous()
    shared = weights.pop(_SHARED, None)
    tied = [weights.pop(name) for name in list(weights) if _TIED.match(name)]
    weights[_SHARED] = _with_more_rows(tied[0] if shared is None else shared, len(tokenizer), tokenizer.pad_token_id)
    config = _config(original, len(weights[_SHARED]), tokenizer.convert_tokens_to_ids(IMAGE))
    with torch.device("meta"):
        model = Florence2ForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or [name for name in missing if not _TIED.match(name)]:
        raise ValueError(f"missing: {missing[:3]}, unexpected: {unexpected[:3]}")
    model.tie_weights()
    model.generation_config = _generation(source, original["text_config"])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def renamed(name: str) -> str:
    """A weight's name in transformers' layout. Raises: ValueError where Florence-2 has no such weight."""
    for pattern, replacement in RENAMED:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    raise ValueError(f"Florence-2 has no weight {name!r}")


def _weights(source: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    index = source / "model.safetensors.index.json"
    if (source / "model.safetensors").is_file():
        return dict(load_file(source / "model.safetensors"))
    if index.is_file():
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        return {name: tensor for shard in shards for name, tensor in load_file(source / Path(shard).name).items()}
    return dict(torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True))  # no pickled code


def _with_more_rows(embedding: Any, tokens: int, pad: int) -> Any:
    """Room for <image>. New rows are the padding's, which is never said."""
    import torch

    rows = -(-max(tokens, len(embedding)) // _ROWS) * _ROWS
    return torch.cat([embedding, embedding[pad].expand(rows - len(embedding), -1)]).contiguous()


def _config(original: dict[str, Any], vocabulary: int, image_token: int) -> Any:
    from transformers import BartConfig, Florence2Config, Florence2VisionConfig

    vision, text = original["vision_config"], original["text_config"]
    known = {name: value for name, value in vision.items() if name in _fields(Florence2VisionConfig)}
    seen = Florence2VisionConfig(
        **{name: value for name, value in known.items() if name != "model_type"},
        embed_dim=vision["dim_embed"],
        max_temporal_embeddings=vision["visual_temporal_embedding"]["max_temporal_embeddings"],
        max_position_embeddings=vision["image_pos_embed"]["max_pos_embeddings"],
    )
    known = {name: value for name, value in text.items() if name in _fields(BartConfig)}
    written = BartConfig(**{**known, "vocab_size": vocabulary, "tie_word_embeddings": True})
    ids = {name: original[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in original}
    return Florence2Config(text_config=written, vision_config=seen, image_token_id=image_token, **ids)


def _fields(config: type) -> frozenset[str]:
    """What Microsoft's configuration holds beyond these are settings of their code."""
    return frozenset(name for name in config.__annotations__ if name != "model_type")


def _generation(source: Path, text: dict[str, Any]) -> Any:
    from transformers import GenerationConfig

    if (source / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(source, local_files_only=True)
    return GenerationConfig(**{name: text[name] for name in _GENERATION if name in text})


def _tokenizer(source: Path, vocabulary: int) -> Any:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(source / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    if backend.get_vocab_size() > vocabulary:
        raise ValueError(f"the tokenizer has {backend.get_vocab_size()} tokens and the model {vocabulary}")
    backend.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        **{"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"},
        model_specific_special_tokens={"image_token": IMAGE},
    )


def _image_processor(source: Path) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    given = json.loads((source / "preprocessor_config.json").read_bytes())
    named = ("size", "image_mean", "image_std", "resample", "image_seq_length")
    return CLIPImageProcessorPil(
        **{name: given[name] for name in named if name in given}, do_center_crop=False, do_convert_rgb=True
    )
