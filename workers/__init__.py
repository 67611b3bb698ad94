"""The hands: one file per model. A `Worker` subclass in a module of this folder is found by being there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from workers.base import Worker


def add_folders(folders: Iterable[Path]) -> None:
    """Let workers stand in further folders too, as if their files lay in this one."""
    for folder in folders:
        if str(folder.resolve()) not in __path__:
            __path__.append(str(folder.resolve()))


def discover() -> dict[str, type[Worker]]:
    """Every worker by name. Importing a worker's file is cheap: heavy imports stand in its `load`."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found: dict[str, type[Worker]] = {}
    pending = list(Worker.__subclasses__())
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    return dict(sorted(found.items()))
