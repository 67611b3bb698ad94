"""Writes the codec's figures in tests/fixtures by running the published code of fish-speech 1.5.

    PYTHONPATH=<checkout of fishaudio/fish-speech at v1.5.0>:. python tests/make_codec_fixtures.py [--full]

It runs wherever that code is installed, with torchaudio, einops, einx and vector-quantize-pytorch==1.14.24, and holds
none of it. With --full it writes nothing, but compares this repository's codec with that code in the published size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fish_speech.models.vqgan.modules.firefly import ConvNeXtEncoder, FireflyArchitecture, HiFiGANGenerator
from fish_speech.models.vqgan.modules.fsq import DownsampleFiniteScalarQuantize
from fish_speech.utils.spectrogram import LogMelSpectrogram
from vector_quantize_pytorch import GroupedResidualFSQ  # type: ignore[import-not-found]

from tests.checkpoints_codec import FIXTURES, make_firefly, noise, random_weights, vectors

COMMIT = "fishaudio/fish-speech 7902e408c85b37193ce3f3c2361ca3c76be0d533 (v1.5.0), vector-quantize-pytorch 1.14.24"
PUBLISHED: dict[str, Any] = {"mels": 160, "depths": [3, 3, 9, 3], "dims": [128, 256, 384, 512], "width": 512}
TINY: dict[str, Any] = {"mels": 16, "depths": [1, 1, 2, 1], "dims": [16, 24, 32, 64], "width": 64}
SEED, SAMPLES, EVERY = 4, 26_000, 61
RESIDUAL: dict[str, Any] = {"dim": 24, "groups": 2, "levels": [8, 5, 5, 5], "num_quantizers": 3}


def build(mels: int, depths: list[int], dims: list[int], width: int) -> Any:
    model = FireflyArchitecture(
        backbone=ConvNeXtEncoder(input_channels=mels, depths=depths, dims=dims, drop_path_rate=0.2, kernel_size=7),
        head=HiFiGANGenerator(
            hop_length=512,
            upsample_rates=[8, 8, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 4, 4, 4],
            resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            num_mels=dims[-1],
            upsample_initial_channel=width,
            pre_conv_kernel_size=13,
            post_conv_kernel_size=13,
        ),
        quantizer=DownsampleFiniteScalarQuantize(
            input_dim=dims[-1], n_groups=8, n_codebooks=1, levels=[8, 5, 5, 5], downsample_factor=[2, 2]
        ),
        spec_transform=LogMelSpectrogram(sample_rate=44_100, n_mels=mels, n_fft=2048, hop_length=512, win_length=2048),
    )
    return model.eval()


def layout(model: Any) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def run(model: Any, shapes: dict[str, list[int]], audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the sound and sound of the codes, in the published code with the weights that the tests make."""
    weights = {name: torch.from_numpy(weight) for name, weight in random_weights(shapes, SEED).items()}
    model.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        codes, _ = model.encode(torch.from_numpy(audio)[None, None], torch.tensor([len(audio)]))
        sound, _ = model.decode(codes.long(), torch.tensor([codes.shape[2]]))
    return codes[0].numpy(), sound[0, 0].numpy()


def residual() -> dict[str, Any]:
    """The quantiser alone with several rounds, of which the published size has one."""
    quantizer = GroupedResidualFSQ(**RESIDUAL).eval()
    shapes = layout(quantizer)
    weights = random_weights(shapes, SEED)
    quantizer.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    with torch.inference_mode():
        _, codes = quantizer(torch.from_numpy(vectors(SEED, 40, RESIDUAL["dim"]))[None])
        decoded = quantizer.get_output_from_indices(codes)[0]
    return {
        "made by": COMMIT,
        "seed": SEED,
        "codes": torch.cat([*codes[:, 0]], dim=-1).mT.tolist(),
        "decoded": [float(f"{value:.6g}") for value in decoded[::8].flatten().tolist()],
        "shapes": shapes,
    }


def write() -> None:
    published, model = layout(build(**PUBLISHED)), build(**TINY)
    shapes, audio = layout(model), noise(SEED, SAMPLES)
    codes, sound = run(model, shapes, audio)
    figures = {
        "made by": COMMIT,
        "seed": SEED,
        "samples": SAMPLES,
        "every": EVERY,
        "codes": codes.tolist(),
        "sound": [float(f"{value:.6g}") for value in sound[::EVERY].tolist()],
        "shapes": shapes,
    }
    FIXTURES.mkdir(exist_ok=True)
    (FIXTURES / "firefly.json").write_text(_text(figures))
    (FIXTURES / "firefly_layout.json").write_text(_text({"made by": COMMIT, "shapes": published}))
    (FIXTURES / "residual_fsq.json").write_text(_text(residual()))
    print("deviation of the sound:", float(sound.std()), "codes used:", len(np.unique(codes)))


def compare() -> None:
    from workers.fish.codec_files import load_codec

    model, audio = build(**PUBLISHED), noise(SEED, 10 * 44_100)
    shapes = layout(model)
    codes, sound = run(model, shapes, audio)
    with tempfile.TemporaryDirectory() as folder:
        codec = load_codec(make_firefly(Path(folder), shapes, SEED))
    ours = codec.encode(audio).numpy()
    print("codes equal:", float((ours == codes).mean()), "of", codes.size, "used:", len(np.unique(codes)))
    print("sound differs by at most:", float(np.abs(codec.decode(codes) - sound).max()), "deviation:", sound.std())


def _text(value: dict[str, Any]) -> str:
    """One row of the shapes on each line."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in value["shapes"].items())
    rest = ",\n".join(f"{json.dumps(name)}: {json.dumps(item)}" for name, item in value.items() if name != "shapes")
    return f'{{{rest},\n"shapes": {{\n{rows}\n}}}}\n'


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    compare() if parser.parse_args().full else write()
