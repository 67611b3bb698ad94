"""Where a worker that computes with torch does so, and what it holds of that device's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from workers.runtime.failing import ran_out

if TYPE_CHECKING:
    import torch

log = structlog.get_logger()


def torch_device(setting: str, worker: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU that computes, else the CPU.

    A driver may show a GPU for which torch has no code, or with which its libraries do not work.
    Raises: torch.OutOfMemoryError, where its memory is full, which may pass; RuntimeError for what is no device.
    """
    import torch

    if setting != "auto":
        return torch.device(setting)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        ones = torch.ones(16, 16, device="cuda")
        (ones @ ones).sum().item()
    except (RuntimeError, AssertionError) as exc:
        if ran_out(exc):
            raise torch.OutOfMemoryError(str(exc)) from exc
        log.warning("gpu_not_used", worker=worker, reason=str(exc))
        return torch.device("cpu")
    return torch.device("cuda")


def memory_used(device: torch.device) -> dict[str, float]:
    """What torch holds of a GPU, for /health; of the CPU nothing is said."""
    import torch

    return {"vram_used_gb": round(torch.cuda.memory_reserved(device) / 1e9, 2)} if device.type == "cuda" else {}
