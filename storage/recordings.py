"""Recordings that clients send while their jobs run: `listen`.

    message "listen" ─▶ job with an empty upload ─▶ task, live
    event "audio"    ─▶ append() ─▶ file ─▶ transport.more() ─▶ the task reads on
    end, or silence for long ─▶ the file is whole ─▶ transport.more() ─▶ the task ends

A client that lost its connection goes on within `SILENCE_SECONDS`, from the byte that it was told last; so does one
whose server was restarted. After that the recording counts as whole, so that what was heard is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from contract.errors import JobNotFound
from contract.folders import Folders
from contract.identity import Party, Whose, whose
from contract.messages import Request
from storage import live

log = structlog.get_logger()

SILENCE_SECONDS = 60.0


class _Recording(NamedTuple):
    whose: Whose
    path: Path
    alarm: asyncio.TimerHandle


class Recordings:
    """Those of the open jobs. more: wakes a job's task. limit: bytes of one recording."""

    def __init__(self, folders: Folders, more: Callable[[str], None], limit: int) -> None:
        self._folders = folders
        self._more = more
        self._limit = limit
        self._open: dict[str, _Recording] = {}

    def enter(self, job_id: str, request: Request) -> None:
        """Expect a live job's recording."""
        path = self._folders.uploads / request.params["file"]["$file"]["value"]
        self._open[job_id] = _Recording(whose(request), path, self._alarm(job_id))

    def leave(self, job_id: str) -> None:
        """The job has ended."""
        recording = self._open.pop(job_id, None)
        if recording is not None:
            recording.alarm.cancel()

    def append(self, job_id: Any, who: Party, offset: int | None, sound: bytes, *, end: bool = False) -> int:
        """Bytes of the recording so far; see `live.append`. end: it is whole, if nothing before these is missing.

        Raises: JobNotFound, the same for another's job as for one that never listened; InvalidInput, TooLarge, OSError.
        """
        recording = self._own(job_id, who)
        received = live.append(recording.path, offset, sound, self._limit)
        recording.alarm.cancel()
        self._open[job_id] = recording._replace(alarm=self._alarm(job_id))
        if end and (offset is None or received >= offset + len(sound)):
            self._finish(job_id)
        else:
            self._more(job_id)
        return received

    def _finish(self, job_id: str) -> None:
        recording = self._open[job_id]
        recording.alarm.cancel()
        live.finish(recording.path)
        self._more(job_id)

    def _own(self, job_id: Any, who: Party) -> _Recording:
        recording = self._open.get(job_id) if isinstance(job_id, str) else None
        if recording is None or recording.whose != whose(who):
            raise JobNotFound("You have no job of this id that listens; it may have ended.", field="job_id")
        return recording

    def _alarm(self, job_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._abandoned, job_id)

    def _abandoned(self, job_id: str) -> None:
        log.info("recording_abandoned", job=job_id)
        self._finish(job_id)
