"""What the model has read of voices: keys and values of prompts' first columns, the same for every text in a voice.

Kept on the device, the least recently used forgotten first, and found by their tokens, so they never go stale. A prompt
is read in the same two parts whether the first one is known or not: what is copied is what would be computed, bit by
bit.
"""

from __future__ import annotations

import hashlib

import cachetools
from torch import Tensor

from workers.fish.frame import FrameStep


class Prefixes:
    """megabytes: how much is kept."""

    def __init__(self, step: FrameStep, megabytes: float) -> None:
        self._step = step
        self._kept: cachetools.LRUCache[bytes, tuple[Tensor, Tensor]] = cachetools.LRUCache(
            megabytes * 1e6, getsizeof=lambda kept: sum(part.nbytes for part in kept)
        )

    def read(self, prefix: Tensor, row: int) -> None:
        """Bring a prefix into a row's first positions. prefix: int64, (1 + C, T), on the CPU."""
        name = hashlib.sha256(prefix.contiguous().numpy().tobytes()).digest()
        places = self._step.cache.start_of(row, prefix.size(1))
        if (kept := self._kept.get(name)) is not None:
            for place, part in zip(places, kept, strict=True):
                place.copy_(part)
            return
        self._step.read(prefix, row, 0)
        if sum(place.nbytes for place in places) <= self._kept.maxsize:
            self._kept[name] = (places[0].clone(), places[1].clone())
