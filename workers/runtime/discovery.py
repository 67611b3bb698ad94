"""Which workers there are: those whose file, or whose folder's `worker.py`, stands in `workers/` or a folder beside it.

Importing such a file is cheap: heavy imports stand in its worker's `load`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import workers
from workers.base import Worker

_OURS = frozenset({"base", "runtime"})
"""Modules of `workers` that hold no worker."""


def add_folders(folders: Iterable[Path]) -> None:
    """Let workers stand in further folders too, as if their files lay in `workers/`."""
    for folder in folders:
        if str(folder.resolve()) not in workers.__path__:
            workers.__path__.append(str(folder.resolve()))


def discover() -> dict[str, type[Worker]]:
    """Every worker by name. Of two of one name that of the folder that was added last counts."""
    found = {cls.name: cls for module in _modules() for cls in _defined(module)}
    return dict(sorted(found.items()))


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(workers.__path__, f"{workers.__name__}."):
        if found.name.rpartition(".")[2] not in _OURS:
            yield importlib.import_module(f"{found.name}.worker" if found.ispkg else found.name)


def _defined(module: ModuleType) -> Iterator[type[Worker]]:
    """The workers that a module itself defines. One without a name is a base for others."""
    own = (cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__)
    yield from (cls for cls in own if issubclass(cls, Worker) and "name" in vars(cls))
