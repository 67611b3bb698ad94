"""The codec of OpenAudio S1: 44.1 kHz sound ↔ 21.5 frames a second of a semantic code and nine residual ones.

The network is the one of the package fish-speech (`modded_dac`), and encoding is its own. For decoding, its causal
convolutions are exchanged for those that remember (`workers.fish.causal`), and the window-limited transformer after
the codes for one that keeps the last window's keys and values; so a stream's memory does not grow. Weights are read as
published (`codec.pth`), sizes from the weights; what weights do not tell is as in its configs/modded_dac_vq.yaml.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from contract.errors import ModelUnavailable
from workers.fish.causal import CausalConv, CausalTransposedConv, recalled, remember
from workers.fish.codec import Codec, foreign, read_weights
from workers.fish.firefly import count, folded

FILES = ("codec.pth", "codec.safetensors")

SAMPLE_RATE = 44_100
_HEAD_DIM = 64
_WINDOW = 128
"""Frames that the transformers around the codes see: their own and those before it."""
_LONGEST = 4096
"""Frames for which the transformers around the codes have positions."""

_TABLES = ("freqs_cis", "causal_mask")
"""Kept with the weights, but computable; the mask is as large as all weights together and never used here."""


class DacCodec(Codec):
    sample_rate = SAMPLE_RATE
    longest_frames = _LONGEST

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        """dtype: of the decoder's products, by autocast, as upstream decodes."""
        self.model = model.requires_grad_(False).eval().to(device)
        self.frame_length = int(model.frame_length)
        self.codebooks = 1 + len(model.quantizer.quantizer.quantizers)
        self.device = device
        self.dtype = dtype

    def _encode(self, audio: Tensor) -> Tensor:
        codes, _ = self.model.encode(audio)
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model.decoder(self.model.quantizer.decode(codes))[:, 0]


class WindowedTransformer(nn.Module):
    """(rows, channels, n) → the same, as the package's WindowLimitedTransformer around the same layers.

    Remembers for each layer the rotated keys and the values of the last window, and for each row how many steps it has
    seen: positions are counted from the start, since the package rounds their angles to bfloat16.
    """

    def __init__(self, whole: Any, window: int) -> None:
        super().__init__()
        self.whole = whole
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(1 - self.window, x.shape[-1], device=x.device)
        start = recalled(self, (len(x), 1), steps)
        keys = start + steps
        remember(self, start + x.shape[-1])
        queries = keys[:, self.window - 1 :]
        distance = queries[:, :, None] - keys[:, None, :]
        seen = (distance >= 0) & (distance < self.window) & (keys[:, None, :] >= 0)
        angles = self.whole.freqs_cis[queries][:, :, None].float()
        hidden = self.whole.input_proj(x.mT)
        for layer in self.whole.layers:
            attended = self._attend(layer.attention, layer.attention_norm(hidden), angles, seen[:, None])
            hidden = hidden + layer.attention_layer_scale(attended)
            hidden = hidden + layer.ffn_layer_scale(layer.feed_forward(layer.ffn_norm(hidden)))
        return self.whole.output_proj(self.whole.norm(hidden)).mT

    def _attend(self, attention: Any, x: Tensor, angles: Tensor, seen: Tensor) -> Tensor:
        """x: (rows, n, dim); angles: (rows, n, 1, head_dim / 2, 2); seen: (rows, 1, n, window - 1 + n)."""
        query, key, value = attention.wqkv(x).unflatten(-1, (3, attention.n_head, attention.head_dim)).unbind(2)
        new = torch.stack((_rotated(key, angles), value), dim=1).transpose(2, 3)  # (rows, 2, heads, n, head_dim)
        past = recalled(attention, (*new.shape[:3], self.window - 1, new.shape[-1]), new)
        both = torch.cat((past, new), dim=3)
        remember(attention, both[:, :, :, new.shape[3] :])
        query = _rotated(query, angles).transpose(1, 2)
        heard = scaled_dot_product_attention(query, both[:, 0], both[:, 1], attn_mask=seen)
        return attention.wo(heard.transpose(1, 2).flatten(2))


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (arXiv:2104.09864) of neighbouring pairs. x: (rows, n, heads, head_dim)."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).type_as(x)


def load(file: Path, device: torch.device, dtype: torch.dtype | None) -> DacCodec:
    """A published checkpoint. Raises: ModelUnavailable, also where the package is not installed."""
    network = package()
    weights = {name: weight for name, weight in folded(read_weights(file)).items() if not name.endswith(_TABLES)}
    try:
        with torch.device("meta"):
            model = built(network, {name: tuple(weight.shape) for name, weight in weights.items()})
    except (KeyError, IndexError, ZeroDivisionError) as exc:
        raise foreign(file, "the codec of OpenAudio S1") from exc
    without_tables(network, model)
    try:
        missing, _ = model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as exc:
        raise foreign(file, "the codec of OpenAudio S1") from exc
    if missing:
        raise foreign(file, "the codec of OpenAudio S1")
    model.quantizer.post_module = WindowedTransformer(model.quantizer.post_module, _WINDOW)
    for decoding in (model.quantizer.upsample, model.decoder):
        _remembering(decoding)
    return DacCodec(model.float(), device, dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32))


def built(network: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The package's network in the sizes of folded weights. Raises: KeyError, where a layer is missing."""
    encoders = range(1, count(shapes, "encoder.block.") - 2)  # the first convolution; an activation and the last
    decoders = range(1, count(shapes, "decoder.model.") - 2)
    merges = range(count(shapes, "quantizer.downsample."))
    config = partial(network.modded_dac.ModelArgs, head_dim=_HEAD_DIM, block_size=4 * _LONGEST)
    latent = shapes["quantizer.downsample.0.0.conv.weight"][1]

    def transformer(name: str) -> Any:
        dim, inner = shapes[f"{name}.norm.weight"][0], shapes[f"{name}.layers.0.feed_forward.w1.weight"][0]
        layers = count(shapes, f"{name}.layers.")
        sizes = config(block_size=_LONGEST, n_layer=layers, n_head=dim // _HEAD_DIM, dim=dim, intermediate_size=inner)
        return network.modded_dac.WindowLimitedTransformer(sizes, input_dim=latent, window_size=_WINDOW)

    quantizer = network.rvq.DownsampleResidualVectorQuantize(
        input_dim=latent,
        n_codebooks=count(shapes, "quantizer.quantizer.quantizers."),
        codebook_dim=shapes["quantizer.quantizer.quantizers.0.codebook.weight"][1],
        codebook_size=shapes["quantizer.quantizer.quantizers.0.codebook.weight"][0],
        semantic_codebook_size=shapes["quantizer.semantic_quantizer.quantizers.0.codebook.weight"][0],
        downsample_factor=tuple(shapes[f"quantizer.downsample.{index}.0.conv.weight"][2] for index in merges),
        pre_module=transformer("quantizer.pre_module"),
        post_module=transformer("quantizer.post_module"),
    )
    return network.modded_dac.DAC(
        encoder_dim=shapes["encoder.block.0.conv.weight"][0],
        encoder_rates=[shapes[f"encoder.block.{index}.block.4.conv.weight"][2] // 2 for index in encoders],
        latent_dim=latent,
        decoder_dim=shapes["decoder.model.0.conv.weight"][0],
        decoder_rates=[shapes[f"decoder.model.{index}.block.1.conv.weight"][2] // 2 for index in decoders],
        quantizer=quantizer,
        sample_rate=SAMPLE_RATE,
        causal=True,
        encoder_transformer_layers=[count(shapes, f"encoder.block.{index}.block.5.layers.") for index in encoders],
        decoder_transformer_layers=[0 for _ in decoders],  # the package makes them and leaves them out
        transformer_general_config=config,
    )


def without_tables(network: Any, model: Any) -> None:
    """Weights as one tensor each, and the computable tables computed, not expected in the file."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            if is_parametrized(module):
                remove_parametrizations(module, "weight")
            elif hasattr(module, "weight_g"):
                remove_weight_norm(module)
        if isinstance(module, network.modded_dac.Transformer):
            sizes = module.config
            angles = network.modded_dac.precompute_freqs_cis(sizes.block_size, sizes.head_dim, sizes.rope_base)
            module.register_buffer("freqs_cis", angles, persistent=False)
            module.register_buffer("causal_mask", None)


def _remembering(module: Any) -> None:
    """Exchanges the package's causal convolutions for ours around the same weights."""
    for name, child in module.named_children():
        if type(child).__name__ == "CausalConvNet":
            setattr(module, name, CausalConv(child.conv))
        elif type(child).__name__ == "CausalTransConvNet":
            setattr(module, name, CausalTransposedConv(child.conv))
        else:
            _remembering(child)


def package() -> Any:
    """The two modules `modded_dac` and `rvq` of the package fish-speech. Raises: ModelUnavailable."""
    if importlib.util.find_spec("fish_speech") is None or importlib.util.find_spec("dac") is None:
        raise ModelUnavailable(
            "OpenAudio S1 needs the package fish-speech, which is not installed. Run `pip install --no-deps -r "
            "requirements-fish.txt` in the server's environment."
        )
    try:
        with _stand_ins():
            from fish_speech.models.dac import modded_dac, rvq
    except ImportError as exc:
        raise ModelUnavailable(
            f"The package fish-speech cannot be imported ({exc}). Run `pip install --no-deps -r requirements-fish.txt` "
            "in the server's environment."
        ) from exc
    return types.SimpleNamespace(modded_dac=modded_dac, rvq=rvq)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """For what those modules import and do not need here: tools for training, and reading of sound files.

    `dac` itself is entered past its __init__ files, which import its trainer.
    """
    before = dict(sys.modules)
    for name in ("audiotools", "audiotools.ml", "librosa", "soundfile"):
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["audiotools"])["AudioSignal"] = object
    vars(sys.modules["audiotools.ml"])["BaseModel"] = nn.Module
    root = Path(next(iter(importlib.util.find_spec("dac").submodule_search_locations)))  # type: ignore[union-attr, arg-type]
    for name, folder in (("dac", root), ("dac.nn", root / "nn"), ("dac.model", root / "model")):
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in _STOOD_IN]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name.split(".")[0] in _STOOD_IN})


_STOOD_IN = {"audiotools", "librosa", "soundfile", "dac"}
