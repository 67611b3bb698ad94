"""What every part of the measurement is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.gpu.nvml import Gpu


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """folder: for models, recordings and the server's data. speech: a folder of clips, which need not be there.

    until: the moment of `time.perf_counter` at which the part should be done.
    """

    folder: Path
    speech: Path
    device: str
    gpu: Gpu
    until: float
