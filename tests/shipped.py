"""The workers that ship. Other tests bring workers of their own into the same process."""

from __future__ import annotations

import inspect
from pathlib import Path

from workers.base import Worker
from workers.runtime.discovery import discover

FOLDER = Path(__file__).parent.parent / "workers"
SHIPPED: dict[str, type[Worker]] = {
    name: cls for name, cls in discover().items() if Path(inspect.getfile(cls)).is_relative_to(FOLDER)
}
assert SHIPPED, f"{FOLDER} should hold a worker"
