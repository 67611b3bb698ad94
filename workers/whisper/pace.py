"""How long a batch will take on a CPU, by how long earlier ones took, and which pieces may share one.

A device that computes many pieces in the time of one needs no such bound. On a CPU every piece costs time of its own,
and whoever comes meanwhile waits for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workers.whisper.units import Unit

if TYPE_CHECKING:
    from media.audio import Audio

TURN_SECONDS, LIVE_TURN_SECONDS = 4.0, 1.0
"""Longest seconds of a batch of several pieces; the second holds while somebody is being listened to."""
_ENCODING = 20.0
"""Encoding always takes 30 s of sound; it costs about as much as writing down so many seconds of speech."""
_LONGER = 1.5
_SHORT = 5.0
"""A piece may join a batch if it is at most so many times as long as the first piece, and so many seconds longer."""
_WEIGHT = 0.3
"""Weight of the latest batch in the running mean."""


class Pace:
    """sample_rate: of the units' audio."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._pace: float | None = None

    def measured(self, units: Sequence[Unit], seconds: float) -> None:
        """Learn from a batch that took so many seconds."""
        work = self._work(units)
        if work:
            latest = seconds / work
            self._pace = latest if self._pace is None else self._pace + _WEIGHT * (latest - self._pace)

    def fits(self, batch: Sequence[Unit], unit: Unit, *, live: bool) -> bool:
        """Whether a unit may join: not if it is much longer than the first, whose turn it is, nor beyond the bound."""
        if batch[0].encode_only or self._seconds(unit.audio) > _LONGER * self._seconds(batch[0].audio) + _SHORT:
            return False
        longest = LIVE_TURN_SECONDS if live else TURN_SECONDS
        return self._pace is None or self._pace * self._work([*batch, unit]) <= longest

    def _work(self, units: Sequence[Unit]) -> float:
        writing = 0.0 if all(unit.encode_only for unit in units) else sum(self._seconds(unit.audio) for unit in units)
        return writing + _ENCODING * sum(unit.encoded is None for unit in units)

    def _seconds(self, audio: Audio | None) -> float:
        return 0.0 if audio is None else len(audio) / self._rate
