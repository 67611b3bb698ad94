"""Where a model computes: one rule for every library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import structlog

from contract.errors import ModelUnavailable
from workers.runtime.failing import ran_out

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """kind: `cpu` or `cuda`. index: of the card. unused: why a GPU that is there is not used."""

    kind: str
    index: int = 0
    unused: Exception | None = None


def on_device(setting: str, worker: str, has_gpu: bool, try_on: Callable[[str, int], None]) -> Device:
    """Where `auto`, `cpu`, `cuda` or `cuda:N` leads. try_on: called with a kind and an index; raises where that fails.

    `auto` takes a GPU, and the CPU where there is none or where it fails, unless for want of memory, which may pass.
    Raises: what `try_on` raises.
    """
    if setting != "auto":
        kind, _, index = setting.partition(":")
        try_on(kind, int(index or 0))
        return Device(kind, int(index or 0))
    unused = None
    if has_gpu:
        try:
            try_on("cuda", 0)
            return Device("cuda")
        except (RuntimeError, ValueError, AssertionError, ModelUnavailable) as exc:
            if ran_out(exc):
                raise
            log.warning("gpu_not_used", worker=worker, reason=str(exc))
            unused = exc
    try_on("cpu", 0)
    return Device("cpu", unused=unused)
