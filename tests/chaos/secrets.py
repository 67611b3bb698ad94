"""Secrets planted in every setting and field, every way to fail taken, and the log read: P14."""

from __future__ import annotations

from tests.chaos.report import Ground
from tests.leaks import VARIANTS, leaks, log_of_all_that_fails

WHAT = "secrets in settings and fields"


async def secrets(ground: Ground) -> None:
    """In the short form to a pipe, as a service writes its log; tests/test_logs.py has the other variants."""
    found: set[str] = set()
    lines = 0
    for variant in ground.pick(VARIANTS[:1], VARIANTS):
        folder = ground.folder / variant
        folder.mkdir()
        log, token = await log_of_all_that_fails(folder, variant)
        lines += log.count("\n")
        found |= leaks(log, folder, token)
    ground.tried("P14", WHAT, "lines of log", lines)
    ground.count("P14", WHAT, "secrets and words of users found in them", len(found))
