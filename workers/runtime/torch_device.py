"""Where a worker that computes with torch does so, and what it holds of that device's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.runtime.device import on_device

if TYPE_CHECKING:
    import torch


def torch_device(setting: str, worker: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU that computes, else the CPU.

    A driver may show a GPU for which torch has no code, or with which its libraries do not work.
    Raises: torch.OutOfMemoryError, where its memory is full, which may pass; RuntimeError for what is no device.
    """
    import torch

    def compute(kind: str, index: int) -> None:
        if kind == "cuda" and setting == "auto":
            ones = torch.ones(16, 16, device="cuda")
            (ones @ ones).sum().item()

    try:
        found = on_device(setting, worker, torch.cuda.is_available(), compute)
    except RuntimeError as exc:  # the only one that is not passed over
        raise torch.OutOfMemoryError(str(exc)) from exc
    return torch.device(found.kind if setting == "auto" else setting)


def memory_used(device: torch.device) -> dict[str, float]:
    """What torch holds of a GPU, for /health; of the CPU nothing is said."""
    import torch

    return {"vram_used_gb": round(torch.cuda.memory_reserved(device) / 1e9, 2)} if device.type == "cuda" else {}
