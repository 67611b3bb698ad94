"""How busy a GPU is, by NVIDIA's own library, which comes with the driver."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any, Self

_EVERY = 0.1
"""Seconds between two looks. The driver averages over about as long."""


class _Utilisation(ctypes.Structure):
    """nvmlUtilization_t: percent of the time in which a kernel ran, or memory was read or written."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Gpu:
    """The first GPU, looked at all the time while this is open; on a machine without one nothing is known of it."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._library, self._device = _opened()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def busy(self, start: float, end: float) -> float | None:
        """The share of the time between two moments of `time.perf_counter` in which a kernel ran, 0 to 1."""
        seen = [percent for at, percent in self._looks if start <= at <= end]
        return sum(seen) / len(seen) / 100 if seen else None

    def _look(self) -> None:
        found = _Utilisation()
        while not self._over.wait(_EVERY):
            if self._library.nvmlDeviceGetUtilizationRates(self._device, ctypes.byref(found)) == 0:
                self._looks.append((time.perf_counter(), found.gpu))

    def __enter__(self) -> Self:
        if self._library is not None:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()


def _opened() -> tuple[Any, Any]:
    """The library and the device, or None twice."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None, None
    device = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
        return None, None
    return library, device
