"""What a new worker process is told before it can be sent anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from contract.folders import Folders


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """What a process is started with: names and plain values only.

    module, name: where the worker's class is, and what it is called. workers_path: further folders with workers.
    libraries: folders where the system is told to look for them. secrets: what no log line may hold.
    """

    folders: Folders
    workers_path: tuple[Path, ...] = ()
    log_level: str = "info"
    module: str = ""
    name: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    libraries: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
