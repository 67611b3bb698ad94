"""Which workers there are: those in `workers/` and in further folders, each a file or the `worker.py` of a folder.

Importing such a file is cheap: heavy imports stand in its worker's `load`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import structlog

import workers
from workers.base import Worker

_OURS = ("base.py", "runtime")
"""What stands in `workers/` and holds no worker."""

log = structlog.get_logger()


class Unfit(Exception):
    """A worker cannot be imported, or two cannot be told apart; the message names the files and says what is wrong."""


def add_folders(folders: Iterable[Path]) -> None:
    """Let workers stand in further folders too, as if their files lay in `workers/`."""
    for folder in folders:
        if str(folder.resolve()) not in workers.__path__:
            workers.__path__.append(str(folder.resolve()))


def discover() -> dict[str, type[Worker]]:
    """Every worker by name. One in a further folder replaces one of the same name in a folder before it.

    Raises: Unfit, where two of one folder have one name, two files could only be imported as one module, two workers
    take messages of one type, or one cannot be imported.
    """
    found: dict[str, type[Worker]] = {}
    for module in map(_imported, _module_names()):
        for cls in _defined(module):
            other = found.get(cls.name, cls)
            if other is not cls:
                _replace(other, cls)
            found[cls.name] = cls
    _check_types(found.values())
    return dict(sorted(found.items()))


def _imported(name: str) -> ModuleType:
    """Raises: Unfit."""
    try:
        return importlib.import_module(name)
    except Exception as exc:
        log.exception("worker_not_imported", module=name)
        raise Unfit(f"{name} cannot be imported ({type(exc).__name__}: {exc}); the log has the place.") from exc


def _check_types(found: Iterable[type[Worker]]) -> None:
    """Raises: Unfit."""
    of_type: dict[str, type[Worker]] = {}
    for cls in found:
        other = of_type.setdefault(cls.message_type, cls)
        if other is not cls:
            raise Unfit(
                f"{_file(other)} and {_file(cls)} both take messages of type {cls.message_type!r}: change one's "
                "`message_type`."
            )


def _replace(before: type[Worker], after: type[Worker]) -> None:
    """Say that one worker stands in for another. Raises: Unfit, where neither was added to the other."""
    if _folder(before) == _folder(after):
        raise Unfit(
            f"Two workers are called {after.name!r}, in {_file(before)} and in {_file(after)}: change one's `name`."
        )
    log.info("worker_replaced", worker=after.name, file=str(_file(after)), instead_of=str(_file(before)))


def _module_names() -> Iterator[str]:
    """Those of all folders, in the folders' order. Raises: Unfit."""
    first = Path(workers.__path__[0])
    seen = {path.name.removesuffix(".py"): path for path in (first / name for name in _OURS)}
    for path in (path for folder in workers.__path__ for path in sorted(Path(folder).iterdir())):
        file = path / "worker.py" if path.is_dir() else path
        name = path.name.removesuffix(".py")
        if path in seen.values() or "." in name or name == "__init__" or file.suffix != ".py" or not file.is_file():
            continue
        if name in seen:
            raise Unfit(f"{file} and {seen[name]} would be one module: rename the former.")
        seen[name] = path
        yield f"{workers.__name__}.{name}{'.worker' if path.is_dir() else ''}"


def _defined(module: ModuleType) -> Iterator[type[Worker]]:
    """The workers that a module itself defines, each once. One without a name is a base for others."""
    own = {cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__}
    named = (cls for cls in own if issubclass(cls, Worker) and "name" in vars(cls))
    yield from sorted(named, key=lambda cls: cls.__qualname__)


def _file(worker: type[Worker]) -> Path:
    return Path(str(sys.modules[worker.__module__].__file__))


def _folder(worker: type[Worker]) -> Path:
    """The one of the folders of workers that it stands in."""
    return _file(worker).parents[worker.__module__.count(".") - 1]
