"""Florence-2 base with random weights, as transformers saves one, that writes 20 tokens about every picture.

The configuration and the search are the published ones; the tokenizer has as many tokens, of which the words of the
prompts are real and the others made up, so that a prompt is as long as with the published one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from workers.florence.conversion import IMAGE, SPECIAL_TOKENS, _tokenizer

TOKENS = 20
_PROMPT = "What does the image describe?"
_CORE = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_VOCABULARY = 51_289
"""The published one's, without <image>."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """side: of the picture that the model sees, of which the tower makes (side / 32)² + 1 places."""

    side: int
    vocabulary: int
    text: dict[str, Any]
    vision: dict[str, Any]

    @property
    def places(self) -> int:
        return (self.side // 32) ** 2 + 1


BASE = Size(
    side=768,
    vocabulary=_VOCABULARY,
    text={
        **{"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072},
        **{"encoder_attention_heads": 12, "decoder_attention_heads": 12, "max_position_embeddings": 1024},
    },
    vision={
        **{"depths": (1, 1, 9, 1), "embed_dim": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)},
        **{"num_groups": (4, 8, 16, 32), "window_size": 12, "projection_dim": 768},
    },
)
"""microsoft/Florence-2-base's config.json."""
MICRO = Size(
    side=64,
    vocabulary=2048,
    text={
        **{"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 128},
    },
    vision={
        **{"depths": (1, 1, 1, 1), "embed_dim": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)},
        **{"num_groups": (1, 2, 3, 4), "window_size": 4, "projection_dim": 64},
    },
)


def make_florence(folder: Path, size: Size) -> Path:
    import torch
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2VisionConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True)
    processor = _processor(folder, size)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    rows = -(-len(processor.tokenizer) // 64) * 64
    config = Florence2Config(
        text_config=BartConfig(vocab_size=rows, dropout=0.0, tie_word_embeddings=True, **size.text),
        vision_config=Florence2VisionConfig(drop_path_rate=0.0, **size.vision),
        image_token_id=processor.tokenizer.convert_tokens_to_ids(IMAGE),
        **ids,
    )
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration(config)
    model.generation_config = _search(ids)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _search(ids: dict[str, int]) -> Any:
    """As published, but for the number of tokens, which is always the same."""
    from transformers import GenerationConfig

    published = {"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True}
    return GenerationConfig(**published, min_new_tokens=TOKENS, max_new_tokens=TOKENS, **ids)


def _processor(folder: Path, size: Size) -> Any:
    from transformers import Florence2Processor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"height": size.side, "width": size.side},
        image_seq_length=size.places,
        do_center_crop=False,
        do_convert_rgb=True,
    )
    _write_words(folder, size.vocabulary)
    return Florence2Processor(images, _tokenizer(folder, size.vocabulary), post_processor_config={})


def _write_words(folder: Path, vocabulary: int) -> None:
    """tokenizer.json of whole words; the special tokens are added to it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for word, _ in split.pre_tokenize_str(_PROMPT)]
    filler = [f"Ġword{number}" for number in range(vocabulary - len(SPECIAL_TOKENS) - len(_CORE) - len(words))]
    ids = {token: number for number, token in enumerate([*_CORE, *words, *filler])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _CORE])
    tokenizer.save(str(folder / "tokenizer.json"))
