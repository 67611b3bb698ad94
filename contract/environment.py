"""What a process of ours tells the libraries and programs in it. Nothing is read here: `config.py` does that."""

from __future__ import annotations

import os


def tell(**variables: str) -> None:
    """Set variables of this process, which those that it starts inherit."""
    os.environ.update(variables)
