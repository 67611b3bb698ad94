"""Codecs of the fish models with random weights, in the published layout.

Weights follow from their names and a seed alone, so that the script which ran the published code
(`tests/make_codec_fixtures.py`) and the tests have the same ones.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
FIREFLY_FILE = "firefly-gan-vq-fsq-8x1024-21hz-generator.pth"


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def noise(seed: int, samples: int, sample_rate: int = 44_100) -> NDArray[np.float32]:
    """Sound that is no silence and never the same: noise under a slow swell, with a gliding tone."""
    time = np.arange(samples) / sample_rate
    swell = 0.05 + 0.2 * np.sin(2 * np.pi * 2 * time) ** 2
    tone = 0.2 * np.sin(2 * np.pi * (200 + 300 * time) * time)
    return np.asarray(swell * np.random.RandomState(seed).standard_normal(samples) / 3 + tone, dtype=np.float32)


def vectors(seed: int, count: int, dim: int) -> NDArray[np.float32]:
    return np.asarray(2 * np.random.RandomState(seed).standard_normal((count, dim)), dtype=np.float32)


def random_weights(shapes: dict[str, list[int]], seed: int, gain: float = 1.5) -> dict[str, NDArray[np.float32]]:
    """gain: mean length of normalised weights, such that signals neither die away nor saturate on their way through."""
    return {name: _random(name, tuple(shape), seed, gain) for name, shape in shapes.items()}


def make_firefly(folder: Path, shapes: dict[str, list[int]], seed: int) -> Path:
    """A model's folder with the codec's file as published."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: torch.from_numpy(weight) for name, weight in random_weights(shapes, seed).items()}
    torch.save(weights, folder / FIREFLY_FILE)
    return folder


def make_dac(folder: Path, seed: int) -> Any:
    """A model's folder with the codec's file of OpenAudio S1 as published; answers the package's own network."""
    import torch

    from workers.fish.dac import package

    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_dac(package())
    kept = {name: value for name, value in model.state_dict().items() if value.dtype == torch.float32}
    shapes = {name: list(value.shape) for name, value in kept.items()}
    weights = {name: torch.from_numpy(weight) for name, weight in random_weights(shapes, seed, gain=0.8).items()}
    model.load_state_dict(weights, strict=False)
    torch.save(model.state_dict(), folder / "codec.pth")
    return model


def tiny_dac(package: Any) -> Any:
    """The package's network in the published shape, but narrow."""
    from functools import partial

    dac, dim, layers = package.modded_dac, 64, 2
    config = partial(dac.ModelArgs, head_dim=64, block_size=1024)

    def transformer() -> Any:
        sizes = config(n_layer=layers, n_head=1, dim=dim, intermediate_size=96)
        return dac.WindowLimitedTransformer(sizes, input_dim=dim, window_size=128)

    quantizer = package.rvq.DownsampleResidualVectorQuantize(
        input_dim=dim,
        n_codebooks=9,
        codebook_dim=8,
        codebook_size=64,
        semantic_codebook_size=128,
        downsample_factor=(2, 2),
        pre_module=transformer(),
        post_module=transformer(),
    )
    return dac.DAC(
        encoder_dim=4,
        encoder_rates=[2, 4, 8, 8],
        latent_dim=dim,
        decoder_dim=32,
        decoder_rates=[8, 8, 4, 2],
        quantizer=quantizer,
        sample_rate=44_100,
        causal=True,
        encoder_transformer_layers=[0, 0, 0, 1],
        decoder_transformer_layers=[0, 0, 0, 0],
        transformer_general_config=config,
    ).eval()


def _random(name: str, shape: tuple[int, ...], seed: int, gain: float) -> NDArray[np.float32]:
    source = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    if name.endswith(("original0", "weight_g")):  # the lengths that normalised weights are given
        value = gain * source.uniform(2 / 3, 4 / 3, shape)
    elif name.endswith(("gamma", "alpha", "norm.weight")) or (name.endswith("weight") and len(shape) == 1):
        value = source.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        value = 0.05 * source.standard_normal(shape)
    else:
        value = source.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(value, dtype=np.float32)
