"""A tiny Whisper that always says the same sentence, for tests on machines without real weights.

Every size is real where it matters to the software (the multilingual vocabulary, 30 s windows, timestamps), and the
decoder's position embeddings point at the next token so strongly that nothing else decides: at position p it says the
p-th token of SCRIPT, whatever it hears. So results are exact, and the same on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path

_WORDS = ("All", "Ġis", "Ġwell.")
SENTENCE = "All is well."
SCRIPT = ("<|en|>", "<|transcribe|>", "<|0.00|>", *_WORDS, "<|30.00|>", "<|endoftext|>")
"""By the position of the token before: <|startoftranscript|> stands at 0. Nothing is said after it."""
WORD_STARTS = (0.0, 0.4, 0.6)
"""Seconds from the start of a piece."""

_WIDTH = 64
_TEXT_IDS = 50257
"""The multilingual vocabulary has the empty token last, at 50256; without it CTranslate2 takes a model for English."""
_LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su"
)
_SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in _LANGUAGES.split())),
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"),
)
_TIMES = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))


def make_transformers(folder: Path) -> Path:
    """The tiny model as transformers saves one: model.safetensors, config, tokenizer."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    ids = _vocabulary()
    config = WhisperConfig(
        vocab_size=len(ids),
        d_model=_WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=_WIDTH,
        decoder_ffn_dim=_WIDTH,
    )
    model = WhisperForConditionalGeneration(config)
    _teach(model, ids)
    languages = {f"<|{code}|>": ids[f"<|{code}|>"] for code in _LANGUAGES.split()}
    model.generation_config = GenerationConfig(
        suppress_tokens=[], begin_suppress_tokens=[], alignment_heads=[[0, 0]], lang_to_id=languages
    )
    model.save_pretrained(folder)
    _write_tokenizer(folder, ids)
    return folder


def make_ctranslate2(folder: Path) -> Path:
    """The same model as the server converts it: model.bin with tokenizer.json beside it."""
    from workers.whisper.weights import write_ctranslate2

    source = make_transformers(folder.with_name(f"{folder.name}-transformers"))
    folder.mkdir()
    write_ctranslate2(source, folder)
    return folder


def _vocabulary() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    filler = [f"<{number}>" for number in range(_TEXT_IDS - 1 - len(letters) - len(_WORDS))]
    return {token: index for index, token in enumerate([*letters, *_WORDS, *filler, "", *_SPECIAL, *_TIMES])}


def _teach(model: object, ids: dict[str, int]) -> None:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        encoder, decoder = model.model.encoder, model.model.decoder  # type: ignore[attr-defined]
        for name, parameter in model.named_parameters():  # type: ignore[attr-defined]
            if "norm" not in name:
                parameter.zero_()
        tokens = torch.randn(len(ids), _WIDTH)
        tokens -= tokens.mean(dim=1, keepdim=True)  # so that the layer norm, which takes the mean away, keeps them
        tokens /= tokens.norm(dim=1, keepdim=True)
        decoder.embed_tokens.weight.copy_(tokens)
        for position in range(len(decoder.embed_positions.weight)):
            said = SCRIPT[min(position, len(SCRIPT) - 1)]
            decoder.embed_positions.weight[position] = 100 * tokens[ids[said]]
        for start, word in zip(
            WORD_STARTS, _WORDS, strict=True
        ):  # the decoder looks where the encoder "hears" the word
            encoder.embed_positions.weight[round(start / 0.02) :] = tokens[ids[word]]
        encoder.embed_positions.weight[50:] = tokens[ids["<|1.00|>"]]
        for projection in (decoder.layers[0].encoder_attn.q_proj, decoder.layers[0].encoder_attn.k_proj):
            projection.weight.copy_(3 * torch.eye(_WIDTH))
        decoder.layer_norm.weight.fill_(10)


def _write_tokenizer(folder: Path, ids: dict[str, int]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={token: i for token, i in ids.items() if i < _TEXT_IDS}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in _TIMES])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
