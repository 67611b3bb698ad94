"""Recordings that clients send while their jobs run: `listen`.

    message "listen" ─▶ job with an empty upload ─▶ task, live
    event "audio"    ─▶ append() ─▶ file, in a thread ─▶ more() ─▶ the task reads on
    end, or silence for long ──────────────────────────▶ ended() ─▶ the task is told that the recording is whole

A client that lost its connection goes on within `SILENCE_SECONDS`, from the byte that it was told last; so does one
whose server was restarted. After that the recording counts as whole, so that what was heard is answered. One whose
file its owner has deleted has ended with what was heard.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog

from contract.errors import InvalidInput, JobNotFound, TooLarge
from contract.folders import Folders
from contract.identity import Party, Whose, whose
from contract.messages import Request
from storage.space import Space

log = structlog.get_logger()

SILENCE_SECONDS = 60.0

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Recording:
    """ended: it is whole. turn: whose piece is written now; pieces are written in the order in which they came."""

    whose: Whose
    path: Path
    alarm: asyncio.TimerHandle
    ended: bool
    turn: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)


class Recordings:
    """Those of the open jobs.

    more: wakes a job's task. ended: called once for each, with the job and the bytes of its recording, which is whole.
    limit: bytes of one recording. space: of the disk.
    """

    def __init__(
        self, folders: Folders, more: Callable[[str], None], ended: Callable[[str, int], None], limit: int, space: Space
    ) -> None:
        self._space = space
        self._folders = folders
        self._more = more
        self._ended = ended
        self._limit = limit
        self._open: dict[str, _Recording] = {}
        self._at_work: set[asyncio.Task[Any]] = set()

    def enter(self, job_id: str, request: Request, *, ended: bool = False) -> None:
        """Expect the recording of a live job, in an upload. ended: it was told before that this one has ended."""
        path = self._folders.uploads / request.params["file"]["$file"]["value"]
        self._open[job_id] = _Recording(whose(request), path, self._alarm(job_id), ended)
        if ended:
            self._open[job_id].alarm.cancel()

    def leave(self, job_id: str) -> None:
        """The job has ended."""
        recording = self._open.pop(job_id, None)
        if recording is not None:
            recording.alarm.cancel()

    def finish(self, job_id: str) -> None:
        """Nothing more will come, whoever has said so."""
        self._open[job_id].ended = True
        self._open[job_id].alarm.cancel()

    async def append(self, job_id: Any, who: Party, offset: int | None, sound: bytes, *, end: bool = False) -> int:
        """Add what follows the recording so far. Returns how many bytes there are now.

        offset: where `sound` begins, in bytes; what is there already is skipped, so that a piece may be sent twice.
        Beyond the end nothing is added, and the answer tells from where to send again. None: at the end.
        end: the recording is whole, if nothing before this piece is missing.
        Raises: JobNotFound, the same for another's job as for one that never listened; InvalidInput when the recording
        has ended, TooLarge beyond its limit, DiskFull, OSError.
        """
        recording = self._own(job_id, who)
        # A task of its own: who gives up waiting must not let the next piece overtake this one.
        return await asyncio.shield(self._start(self._append(job_id, recording, offset, sound, end)))

    async def _append(self, job_id: str, recording: _Recording, offset: int | None, sound: bytes, end: bool) -> int:
        async with recording.turn:
            if recording.ended:
                return await asyncio.to_thread(_repeated, recording.path, offset, len(sound))
            self._space.check_running(len(sound))
            try:
                received = await asyncio.to_thread(_written, recording.path, offset, sound, self._limit)
            except FileNotFoundError as exc:
                self._end(job_id, recording, 0)
                raise _over() from exc
            if end and (offset is None or received >= offset + len(sound)):
                self._end(job_id, recording, received)
            elif self._open.get(job_id) is recording:
                recording.alarm.cancel()
                recording.alarm = self._alarm(job_id)
                self._more(job_id)
        return received

    def _end(self, job_id: str, recording: _Recording, size: int) -> None:
        recording.ended = True
        recording.alarm.cancel()
        if self._open.get(job_id) is recording:
            self._ended(job_id, size)

    def _own(self, job_id: Any, who: Party) -> _Recording:
        recording = self._open.get(job_id) if isinstance(job_id, str) else None
        if recording is None or recording.whose != whose(who):
            raise JobNotFound("You have no job of this id that listens; it may have ended.", field="job_id")
        return recording

    def _alarm(self, job_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._abandoned, job_id)

    def _abandoned(self, job_id: str) -> None:
        log.info("recording_abandoned", job=job_id)
        self._start(self._end_in_turn(job_id, self._open[job_id]))

    async def _end_in_turn(self, job_id: str, recording: _Recording) -> None:
        async with recording.turn:
            if not recording.ended:
                self._end(job_id, recording, await asyncio.to_thread(_size, recording.path))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return task


def _written(path: Path, offset: int | None, sound: bytes, limit: int) -> int:
    """`Recordings.append`, on the disk."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        begin = size if offset is None else offset
        fresh = sound[size - begin :] if begin <= size else b""
        if size + len(fresh) > limit:
            raise TooLarge(f"A recording may have {limit / 1e9:g} GB here (MAX_UPLOAD_GB).", field="audio")
        file.write(fresh)
        return size + len(fresh)


def _repeated(path: Path, offset: int | None, length: int) -> int:
    """The answer to the last piece that comes again, since its acknowledgement was lost. Raises: InvalidInput."""
    size = _size(path)
    if offset is None or offset + length > size:
        raise _over()
    return size


def _size(path: Path) -> int:
    """Bytes of a recording; of one that was deleted none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _over() -> InvalidInput:
    return InvalidInput("This recording has ended; begin another with a new 'listen'.", field="job_id")
