"""The libraries of CUDA that CTranslate2 opens by name, in the process before it looks for them.

    the system's (LD_LIBRARY_PATH, ldconfig) ─▶ those of Python packages (nvidia/*/lib) ─▶ missing

CTranslate2 is built for CUDA 12, and torch of the package index brings CUDA 13. A library that is in the process
already is found by its name, wherever it lies, so nobody has to set LD_LIBRARY_PATH.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from contract.errors import ModelUnavailable

LIBRARIES = ("libcublas.so.12",)
"""Libraries that CTranslate2 4.8 opens to compute on one GPU, and those beside them; it does not ask for cuDNN."""
OPTIONAL = ("libnvrtc.so.12",)
"""Libraries that those open themselves, for a few kinds of numbers only."""
INSTALL = "pip install -r requirements-cuda.txt"

_MISSING = re.compile(r"Library (\S+) is not found or cannot be loaded")
"""CTranslate2's words for a missing library."""


def load_libraries() -> str | None:
    """Bring the libraries into the process. Returns the first that is nowhere, None when all needed ones are there."""
    for name in OPTIONAL:
        load_library(name)
    return next((name for name in LIBRARIES if not load_library(name)), None)


def load_library(name: str) -> bool:
    """Whether a library is in the process now, the system's if it has one."""
    return any(_opened(place) for place in (name, *_in_packages(name)))


def named_in(exc: Exception) -> str | None:
    """The library that CTranslate2 could not open."""
    found = _MISSING.search(str(exc))
    return found and found[1]


def without(library: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"Whisper needs {library} to compute on the GPU, and this machine does not have it. Run: {INSTALL}; "
        "or set WHISPER_DEVICE=cpu."
    )


def _opened(place: str) -> bool:
    try:
        ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _in_packages(name: str) -> Iterator[str]:
    """Where NVIDIA's packages for Python have it, which share the namespace `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        yield from map(str, sorted(Path(root).glob(f"*/lib/{name}")))
