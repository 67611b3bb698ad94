"""Where a worker that computes with torch does so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

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
        if "out of memory" in str(exc).lower():
            raise torch.OutOfMemoryError(str(exc)) from exc
        log.warning("gpu_not_used", worker=worker, reason=str(exc))
        return torch.device("cpu")
    return torch.device("cuda")
