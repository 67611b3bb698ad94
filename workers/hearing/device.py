"""Where Whisper computes, in what type, and what that device has left."""

from __future__ import annotations

import os


def chosen_device(setting: str) -> tuple[str, int]:
    """`auto`, `cpu`, `cuda` or `cuda:N` → CTranslate2's device and its index."""
    import ctranslate2

    if setting == "auto":
        return ("cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"), 0
    device, _, index = setting.partition(":")
    return device, int(index or 0)


def compute_type(setting: str, device: str, index: int) -> str:
    """`auto`: float16 on CUDA, or what an older card has instead; int8 on the CPU."""
    import ctranslate2

    if setting != "auto":
        return setting
    if device == "cpu":
        return "int8"
    has = ctranslate2.get_supported_compute_types(device, index)
    return next((kind for kind in ("float16", "int8_float32") if kind in has), "default")


def free_memory(cuda: int | None) -> int | None:
    """Bytes of a CUDA device that nobody uses. CTranslate2 does not tell; a torch without CUDA does not know."""
    if cuda is None:
        return None
    import torch

    return torch.cuda.mem_get_info(cuda)[0] if torch.cuda.is_available() else None


def cores() -> int:
    """The cores that this process may use; in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
