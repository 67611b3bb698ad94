"""The server's checkout, of which this folder is a part unless the client was installed alone."""

from __future__ import annotations

import sys
from pathlib import Path

ALONE = (
    "`models pull` runs on the server's machine, in the folder of its checkout, as .venv/bin/optivus models pull; "
    "this is the client alone, which needs no models."
)


def on_path() -> bool:
    """Make the server's modules importable; False where they are not here."""
    folder = Path(__file__).resolve().parent
    if folder.name != "client":  # it is installed, under its own name
        return False
    sys.path.insert(0, str(folder.parent))
    return True
