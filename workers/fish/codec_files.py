"""Which of the two codecs a model's folder holds, found by the names of the published files, and loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from contract.errors import ModelUnavailable
from workers.fish import dac, firefly
from workers.fish.codec import Codec


def find_codec(folder: Path) -> Path:
    """The codec's weights in a model's folder. Raises: ModelUnavailable."""
    for name in (*firefly.FILES, *dac.FILES):
        if (folder / name).is_file():
            return folder / name
    raise ModelUnavailable(
        f"The model's folder holds no codec: it needs {firefly.FILES[0]} (fish-speech 1.5) or {dac.FILES[0]} "
        "(OpenAudio S1). Copy the file from the published model, or set AI_FISH_MODEL to a complete one."
    )


def load_codec(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Codec:
    """The codec of a model's folder in its published layout.

    dtype: of the decoder; half precision on CUDA and float32 elsewhere if not given. Raises: ModelUnavailable.
    """
    file = find_codec(folder)
    return (dac.load if file.name in dac.FILES else firefly.load)(file, torch.device(device), dtype)
