"""The firefly codec of fish-speech 1.5: 44.1 kHz sound ↔ 21.5 frames a second of 8 codes.

    sound ─▶ log-mel ─▶ ConvNeXt encoder ─▶ merged by 4 and rounded ─▶ codes
    codes ─▶ lengthened by 4 ─▶ HiFi-GAN head ─▶ sound

Weights are read as published (`firefly-gan-vq-fsq-8x1024-21hz-generator.pth`), sizes from the weights; what weights do
not tell is as in fish-speech v1.5.0 (7902e40), fish_speech/configs/firefly_gan_vq.yaml.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from workers.fish.codec import Codec, foreign, read_weights
from workers.fish.convnext import ConvNeXtEncoder
from workers.fish.fsq import DownsampledFsq
from workers.fish.hifigan import HifiGan
from workers.fish.mel import LogMel

FILES = tuple(f"firefly-gan-vq-fsq-8x1024-21hz-generator.{form}" for form in ("pth", "safetensors"))

SAMPLE_RATE = 44_100
LEVELS = (8, 5, 5, 5)

_NORMALISED = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Of a firefly codec; the names are those of the modules' parameters."""

    mels: int
    depths: Shape
    dims: Shape
    encoder_kernel: int
    merged_dims: Shape
    factors: Shape
    groups: int
    width: int
    kernels: Shape
    block_kernels: Shape
    ends: tuple[int, int]

    @property
    def rates(self) -> Shape:
        """HiFi-GAN's transposed convolutions are two strides wide."""
        return tuple(kernel // 2 for kernel in self.kernels)

    @property
    def hop_length(self) -> int:
        return math.prod(self.rates)

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Sizes:
        """From the shapes of `folded` weights. Raises: KeyError, where a layer is missing."""
        stages = range(count(shapes, "backbone.stages."))
        merges = range(count(shapes, "quantizer.downsample."))
        ups = range(count(shapes, "head.ups."))
        blocks = range(count(shapes, "head.resblocks.0.blocks."))
        merging = [shapes[f"quantizer.downsample.{index}.0.conv.weight"] for index in merges]
        stem = shapes["backbone.downsample_layers.0.0.conv.weight"]
        pre = shapes["head.conv_pre.conv.weight"]
        return cls(
            mels=stem[1],
            depths=tuple(count(shapes, f"backbone.stages.{index}.") for index in stages),
            dims=tuple(shapes[f"backbone.stages.{index}.0.norm.weight"][0] for index in stages),
            encoder_kernel=stem[2],
            merged_dims=(pre[1], *(shape[0] for shape in merging)),
            factors=tuple(shape[2] for shape in merging),
            groups=count(shapes, "quantizer.residual_fsq.rvqs."),
            width=pre[0],
            kernels=tuple(shapes[f"head.ups.{index}.conv.weight"][2] for index in ups),
            block_kernels=tuple(shapes[f"head.resblocks.0.blocks.{index}.convs1.0.conv.weight"][2] for index in blocks),
            ends=(pre[2], shapes["head.conv_post.conv.weight"][2]),
        )


class Firefly(nn.Module):
    """The network. Parameters have the published names, with weight normalisation folded into the weights."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.mel = LogMel(SAMPLE_RATE, sizes.hop_length, sizes.mels)
        self.backbone = ConvNeXtEncoder(sizes.mels, sizes.depths, sizes.dims, sizes.encoder_kernel)
        self.quantizer = DownsampledFsq(sizes.merged_dims, sizes.factors, sizes.groups, LEVELS)
        self.head = HifiGan(
            dim=sizes.merged_dims[0],
            width=sizes.width,
            rates=sizes.rates,
            kernels=sizes.kernels,
            block_kernels=sizes.block_kernels,
            ends=sizes.ends,
        )

    def encode(self, audio: Tensor) -> Tensor:
        """float32, (rows, n_samples) → int64, (rows, groups, n_frames)."""
        return self.quantizer.encode(self.backbone(self.mel(audio)))

    def decode(self, codes: Tensor) -> Tensor:
        """int64, (rows, groups, n_frames) → (rows, n_samples), in the head's precision."""
        return self.head(self.quantizer.decode(codes, self.head.conv_pre.conv.weight.dtype))


class FireflyCodec(Codec):
    def __init__(self, model: Firefly, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        """dtype: of what follows the codes; encoding stays in float32, since codes jump where precision is lost."""
        self.model = model.requires_grad_(False).eval().to(device)
        for decoding in (self.model.quantizer.upsample, self.model.head):
            decoding.to(dtype)
        self.sample_rate = SAMPLE_RATE
        self.frame_length = sizes.hop_length * math.prod(sizes.factors)
        self.codebooks = sizes.groups
        self.device = device
        self.shortest = model.mel.shortest

    def _encode(self, audio: Tensor) -> Tensor:
        return self.model.encode(audio)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes)


def load(file: Path, device: torch.device, dtype: torch.dtype | None) -> FireflyCodec:
    """A published checkpoint. Raises: ModelUnavailable."""
    weights = folded(read_weights(file))
    try:
        sizes = Sizes.of({name: tuple(weight.shape) for name, weight in weights.items()})
    except (KeyError, IndexError) as exc:
        raise foreign(file, "a firefly codec") from exc
    with torch.device("meta"):
        model = Firefly(sizes)
    try:
        missing, _ = model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as exc:
        raise foreign(file, "a firefly codec") from exc
    if missing:
        raise foreign(file, "a firefly codec")
    return FireflyCodec(model.float(), sizes, device, dtype or precision(device))


def precision(device: torch.device) -> torch.dtype:
    """Of decoding, by default: float16 has three bits more than bfloat16, and these activations are small."""
    return torch.float16 if device.type == "cuda" else torch.float32


def folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the two halves of each normalised weight (arXiv:1602.07868) multiplied; both of torch's spellings."""
    plain = dict(weights)
    for length, direction in _NORMALISED:
        for name in [name for name in weights if name.endswith(f".{length}")]:
            stem = name.removesuffix(length)
            if f"{stem}{direction}" in plain:
                v, g = plain.pop(f"{stem}{direction}"), plain.pop(name)
                plain[f"{stem}weight"] = v * (g / torch.norm_except_dim(v, 2, 0))
    return plain


def count(names: Iterable[str], prefix: str) -> int:
    """How many modules are numbered after the prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})
