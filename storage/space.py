"""Whether the disk has room for more work: the last of it is kept for the ends of what runs.

A recording that is sent while it is heard runs already, and may have most of that; the last tenth it may not.

To ask costs a microsecond. The disk is the ledger's, which is a local one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from contract.errors import DiskFull

log = structlog.get_logger()

RETRY_AFTER_SECONDS = 60
LEAST_SHARE, LEAST_BYTES = 0.01, 10**9
"""What stays free where nobody says otherwise: this part of the disk, and so many bytes at most."""
RUNNING_SHARE = 0.1
"""Of what stays free: this part of it stays free of recordings too."""


class Space:
    """The disk of a folder. least: bytes that stay free; None for the default."""

    def __init__(self, folder: Path, least: int | None = None) -> None:
        self._folder = folder
        self._least = least
        self._short = False

    @property
    def free(self) -> int | None:
        """Bytes; None where the folder is gone, which the ledger says better."""
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return None

    def check(self, size: int = 0) -> None:
        """Before more is written. size: its bytes, where they are known. Raises: DiskFull."""
        if self.lacks(size):
            raise too_full()

    def check_running(self, size: int) -> None:
        """Before work that runs writes more of what others send. size: its bytes. Raises: DiskFull."""
        if self.lacks(size, RUNNING_SHARE):
            raise too_full()

    def lacks(self, size: int = 0, share: float = 1.0) -> bool:
        """Whether less would stay free than should, or than this share of it.

        That less than all of it is free now, and no longer, is logged once.
        """
        try:
            total, _, free = shutil.disk_usage(self._folder)
        except OSError:
            return False
        least = min(LEAST_BYTES, int(LEAST_SHARE * total)) if self._least is None else self._least
        short = free < least
        if short is not self._short:
            self._short = short
            say = log.error if short else log.info
            say("disk_almost_full" if short else "disk_has_room", free_gb=round(free / 1e9, 3), least_gb=least / 1e9)
        return free - size < least * share


def too_full() -> DiskFull:
    """What is said of what the disk has no room for."""
    return DiskFull(
        "The server's disk has no room for this, since the rest is kept for jobs that run; free space under DATA_DIR "
        "and send this again.",
        retry_after=RETRY_AFTER_SECONDS,
    )
