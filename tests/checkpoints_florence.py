"""A tiny Florence-2 that always says the same, for tests on machines without real weights.

Every part is there, and the decoder's position embeddings decide alone: at position p it says the p-th token of SCRIPT,
whatever it sees. So captions are exact and the same on every machine, and each task finds the one region.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workers.florence.conversion import IMAGE, SPECIAL_TOKENS

SENTENCE = "a shape"
PLACES = (100, 200, 500, 800)
"""Of the region, x1 y1 x2 y2 in thousandths."""
SCRIPT = ("a", "Ġshape", *(f"<loc_{place}>" for place in PLACES), "</s>")

_WIDTH = 64
_SIDE = 64
"""Of the picture that the model sees; its tower makes 2 x 2 places of it."""
_IMAGE_TOKENS = 5
_CORE = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def make_native(folder: Path) -> Path:
    """As transformers saves one: model.safetensors, config, tokenizer, processor."""
    import torch
    from transformers import (
        BartConfig,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2VisionConfig,
        GenerationConfig,
    )

    folder.mkdir(parents=True, exist_ok=True)
    processor = _processor(folder)
    vocabulary = -(-len(processor.tokenizer) // 64) * 64
    size = {"d_model": _WIDTH, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 128}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config = Florence2Config(
        text_config=BartConfig(vocab_size=vocabulary, dropout=0.0, **size, **heads),
        vision_config=Florence2VisionConfig(
            depths=(1, 1, 1, 1),
            embed_dim=(8, 16, 24, 32),
            num_heads=(1, 2, 3, 4),
            num_groups=(1, 2, 3, 4),
            window_size=4,
            projection_dim=_WIDTH,
            drop_path_rate=0.0,
        ),
        image_token_id=processor.tokenizer.convert_tokens_to_ids(IMAGE),
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration(config)
    _teach(model, processor.tokenizer)
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=2, pad_token_id=1, decoder_start_token_id=2, max_new_tokens=20, num_beams=1
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_original(folder: Path, native: Path, *, pickled: bool = False) -> Path:
    """The same model in the layout of Microsoft's code, without that code. pickled: as pytorch_model.bin."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    config = json.loads((native / "config.json").read_text())
    weights = {_original_name(name): tensor for name, tensor in load_file(native / "model.safetensors").items()}
    weights["image_projection"] = weights["image_projection"].T.contiguous()
    rows = len(_CORE) + len(_letters()) + len(_words()) + len(SPECIAL_TOKENS)
    weights["language_model.model.shared.weight"] = weights["language_model.model.shared.weight"][:rows].contiguous()
    weights["language_model.final_logits_bias"] = torch.zeros(1, rows)
    if pickled:
        shared = weights["language_model.model.shared.weight"]
        weights |= {f"language_model.model.{part}.embed_tokens.weight": shared for part in ("encoder", "decoder")}
        torch.save({**weights, "language_model.lm_head.weight": shared}, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    seen, written = config["vision_config"], config["text_config"]
    original = {
        **{name: seen[name] for name in ("depths", "num_heads", "num_groups", "window_size", "projection_dim")},
        **{name: seen[name] for name in ("patch_size", "patch_stride", "patch_padding", "patch_prenorm")},
        **{"model_type": "davit", "drop_path_rate": 0.1, "enable_checkpoint": False, "dim_embed": seen["embed_dim"]},
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": seen["max_temporal_embeddings"]},
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": seen["max_position_embeddings"]},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }
    search = {"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True, "forced_eos_token_id": 2}
    text = {**written, **search, "model_type": "florence2_language", "vocab_size": rows, "add_bias_logits": False}
    auto = {"AutoConfig": "configuration_florence2.Florence2Config"}
    whole = {"model_type": "florence2", "auto_map": auto, "text_config": text, "vision_config": original}
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "projection_dim": _WIDTH, "vocab_size": rows}
    (folder / "config.json").write_text(json.dumps({**whole, **ids}))
    (folder / "configuration_florence2.py").write_text("raise SystemExit('never run')\n")
    _plain_tokenizer(folder)
    picture = {"size": {"height": _SIDE, "width": _SIDE}, "image_seq_length": _IMAGE_TOKENS, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**picture, "image_mean": [0.5] * 3}))
    return folder


def _original_name(name: str) -> str:
    """The inverse of the conversion's table, as Microsoft's modules are nested."""
    rules = (
        ("model.vision_tower.", "vision_tower."),
        (".conv.", ".proj."),
        (".conv1.", ".conv1.fn.dw."),
        (".conv2.", ".conv2.fn.dw."),
        ("spatial_block.norm1.", "spatial_block.window_attn.norm."),
        ("channel_block.norm1.", "channel_block.channel_attn.norm."),
        (".norm2.", ".ffn.norm."),
        ("window_attn.qkv", "window_attn.fn.qkv"),
        ("window_attn.proj", "window_attn.fn.proj"),
        ("channel_attn.qkv", "channel_attn.fn.qkv"),
        ("channel_attn.proj", "channel_attn.fn.proj"),
        (".ffn.fc", ".ffn.fn.net.fc"),
        ("model.multi_modal_projector.image_projection.weight", "image_projection"),
        ("model.multi_modal_projector.image_proj_norm.", "image_proj_norm."),
        ("model.multi_modal_projector.image_position_embed.", "image_pos_embed."),
        ("model.multi_modal_projector.visual_temporal_embed.", "visual_temporal_embed."),
        ("model.language_model.", "language_model.model."),
    )
    for native, original in rules:
        name = name.replace(native, original)
    return name


def _letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _words() -> list[str]:
    return [token for token in SCRIPT if token not in (*_letters(), *SPECIAL_TOKENS, *_CORE)]


def _plain_tokenizer(folder: Path) -> Path:
    """tokenizer.json with text tokens only, as Microsoft's repositories have it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = [*_CORE, *_letters(), *_words()]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _CORE])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _processor(folder: Path) -> Any:
    from transformers import Florence2Processor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from workers.florence.conversion import _tokenizer

    images = CLIPImageProcessorPil(
        size={"height": _SIDE, "width": _SIDE}, do_center_crop=False, image_seq_length=_IMAGE_TOKENS
    )
    tokenizer = _tokenizer(_plain_tokenizer(folder), 1 << 20)
    return Florence2Processor(images, tokenizer, post_processor_config={})


def _teach(model: Any, tokenizer: Any) -> None:
    import torch

    with torch.no_grad():
        language = model.model.language_model
        for name, parameter in language.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        tokens = torch.randn(language.shared.weight.shape)
        tokens -= tokens.mean(dim=1, keepdim=True)  # so that the layer norm, which takes the mean away, keeps them
        tokens /= tokens.norm(dim=1, keepdim=True)
        language.shared.weight.copy_(tokens)
        positions = language.decoder.embed_positions
        for position in range(len(positions.weight) - positions.offset):
            said = SCRIPT[min(position, len(SCRIPT) - 1)]
            positions.weight[position + positions.offset] = 100 * tokens[tokenizer.convert_tokens_to_ids(said)]
        language.decoder.layers[-1].final_layer_norm.weight.fill_(10)
