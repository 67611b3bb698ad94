"""The synchronous client: `AsyncClient` on an event loop in a thread of its own, with the same names.

    with Client("http://127.0.0.1:5000") as client:
        job = client.submit("whisp", file=client.upload("talk.mp3"))
        for event in job.events():
            print(event)
        answer = job.result()

Every call waits in the caller's thread, so Ctrl-C interrupts it there; what it waited for is cancelled in the loop. A
client may be shared by threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .aio import DEFAULT_URL, PATIENCE, AsyncClient
from .events import Event, JobInfo, Voice
from .job import LEAVE_SECONDS, AsyncJob
from .listener import AsyncListener
from .tasks import LocalFile
from .warn import told_here
from .web import Content, Report

T = TypeVar("T")


class Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="optivus", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, done in the loop; what ends the waiting (Ctrl-C) cancels it, and waits until it has left."""
        left = threading.Event()

        async def done() -> T:
            try:
                return await work
            finally:
                left.set()

        with told_here():
            future = asyncio.run_coroutine_threadsafe(done(), self._loop)
            try:
                return future.result()
            except BaseException:
                if future.cancel():
                    left.wait(LEAVE_SECONDS)
                raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Job:
    """A job on the server. Made by `Client.submit` and `Client.job`; `id` names it to the server."""

    def __init__(self, job: AsyncJob, loop: Loop) -> None:
        self._job = job
        self._loop = loop
        self.id = job.id

    @property
    def last_seq(self) -> int:
        """The `seq` of the last event that has arrived."""
        return self._job.last_seq

    @property
    def sample_rate(self) -> int | None:
        """Of its sound, in Hz; None until the first piece of it has arrived."""
        return self._job.sample_rate

    def events(self) -> Iterator[Event]:
        """Every event as it comes, up to `Final`; as `AsyncJob.events`."""
        return self._following(self._job.events)

    def audio(self) -> Iterator[bytes]:
        """The sound of a job with ``stream`` as it is made: pcm_s16le, mono; as `AsyncJob.audio`."""
        return self._following(self._job.audio)

    def _following(self, follow: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        async def started() -> AsyncIterator[T]:
            return follow()

        return self._each(self._loop.run(started()))

    def _each(self, values: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T | None:
            return await anext(values, None)

        while (value := self._loop.run(following())) is not None:
            yield value

    def result(self) -> dict[str, Any]:
        """The job's answer, when it is there. Raises: Cancelled, OptivusError, ServerUnreachable."""
        return self._loop.run(self._job.result())

    def cancel(self) -> bool:
        """Stop the job; False when it had already ended."""
        return self._loop.run(self._job.cancel())

    def signal(self, name: str, data: Mapping[str, Any] | None = None) -> bool:
        """Give the job what it waits for; as `AsyncClient.signal`."""
        return self._loop.run(self._job.signal(name, data))


class Listener:
    """A recording on its way to the server, as `AsyncListener`. Made by `Client.listen`; a context manager."""

    job: Job

    def __init__(self, listener: AsyncListener, loop: Loop) -> None:
        self._listener = listener
        self._loop = loop

    def __enter__(self) -> Self:
        self._loop.run(self._listener.__aenter__())
        self.job = Job(self._listener.job, self._loop)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.run(self._listener.__aexit__(kind, exc, tb))

    def send(self, sound: bytes) -> None:
        """The next bytes of the recording. Raises: OptivusError with which the job ended; ServerUnreachable."""
        self._loop.run(self._listener.send(sound))

    def events(self) -> Iterator[Event]:
        """Every event as it comes, up to `Final`; for another thread than the one that sends."""
        return self.job.events()

    def finish(self) -> dict[str, Any]:
        """The recording is whole: the job's answer. Raises: Cancelled, OptivusError, ServerUnreachable."""
        return self._loop.run(self._listener.finish())


class Client:
    """A client of one server; a context manager. Parameters and errors as in `AsyncClient`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        patience: float | None = PATIENCE,
        notify: Callable[[bool], None] = lambda connected: None,
    ) -> None:
        self._loop = Loop()
        try:
            self._client = self._loop.run(_made(url, token, patience, notify))
        except BaseException:
            self._loop.close()
            raise

    @property
    def url(self) -> str:
        return self._client.url

    @property
    def token(self) -> str | None:
        """This client's name to the server: keep it to be the same client later, and keep it secret."""
        return self._client.token

    def connect(self) -> None:
        """Raises: ServerUnreachable; OptivusError when the server refuses (UNAUTHORIZED)."""
        self._loop.run(self._client.connect())

    def close(self) -> None:
        """Leave. Jobs go on; their answers wait for this client's token."""
        self._loop.run(self._client.close())
        self._loop.close()

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def submit(self, type: str, *, id: Any = None, idempotency_key: str | None = None, **params: Any) -> Job:
        """Ask for a job and wait until the server has accepted it for good; as `AsyncClient.submit`."""
        asked = self._client.submit(type, id=id, idempotency_key=idempotency_key, **params)
        return Job(self._loop.run(asked), self._loop)

    def job(self, job_id: str, last_seq: int = 0) -> Job:
        """Take up a job of this client again, e.g. of an earlier process; its events after `last_seq` come again."""
        return Job(self._loop.run(self._client.job(job_id, last_seq)), self._loop)

    def listen(self, **params: Any) -> Listener:
        """Have speech written down while it is being recorded; use it in a ``with`` statement."""
        return Listener(self._client.listen(**params), self._loop)

    def jobs(self) -> list[JobInfo]:
        """This client's jobs, as far as the server still keeps them."""
        return self._loop.run(self._client.jobs())

    def cancel(self, job_id: str) -> bool:
        """Stop a job of this client; False when it had already ended. Raises: OptivusError, ServerUnreachable."""
        return self._loop.run(self._client.cancel(job_id))

    def signal(self, job_id: str, name: str, data: Mapping[str, Any] | None = None) -> bool:
        """Give a job what it waits for from outside; False when it does not wait for that. As `AsyncClient.signal`."""
        return self._loop.run(self._client.signal(job_id, name, data))

    def health(self) -> dict[str, Any]:
        """How the server and its workers are; needs no connection."""
        return self._loop.run(self._client.health())

    def upload(self, file: Content, progress: Report | None = None) -> str:
        """Send a file, streamed; returns its file_id. As `AsyncClient.upload`; progress: called in another thread."""
        return self._loop.run(self._client.upload(file, progress))

    def download(self, file: str, to: str | os.PathLike[str] = ".", progress: Report | None = None) -> Path:
        """Fetch a file that the server keeps for this client; returns where it is. As `AsyncClient.download`."""
        return self._loop.run(self._client.download(file, to, progress))

    def transcribe(self, file: LocalFile, **params: Any) -> dict[str, Any]:
        """Transcribe a local file, uploaded first, or one that the server has; returns the whole answer."""
        return self._loop.run(self._client.transcribe(file, **params))

    def describe(self, file: LocalFile, **params: Any) -> dict[str, Any]:
        """Say what a picture or a video shows; returns the whole answer. As `AsyncClient.describe`."""
        return self._loop.run(self._client.describe(file, **params))

    def speak(self, text: str, **options: Any) -> dict[str, Any]:
        """Say a text; returns the whole answer, ``audio_data`` in it. Options: those of `AsyncClient.speak`."""
        return self._loop.run(self._client.speak(text, **options))

    def stream_speech(self, text: str, **options: Any) -> Job:
        """Say a text; the job's `audio` gives the sound as it is made. Options: those of `AsyncClient.speak`."""
        return Job(self._loop.run(self._client.stream_speech(text, **options)), self._loop)

    def save_voice(
        self, recording: LocalFile, text: str | None = None, *, name: str | None = None, description: str | None = None
    ) -> str:
        """Keep a voice for `speak`; returns its reference_id. As `AsyncClient.save_voice`."""
        return self._loop.run(self._client.save_voice(recording, text, name=name, description=description))

    def voices(self) -> list[Voice]:
        """The saved voices of this client's owner, newest first."""
        return self._loop.run(self._client.voices())

    def delete_voice(self, reference_id: str) -> None:
        """Forget a saved voice. Raises: OptivusError (VOICE_NOT_FOUND); ServerUnreachable."""
        self._loop.run(self._client.delete_voice(reference_id))


async def _made(url: str, token: str | None, patience: float | None, notify: Callable[[bool], None]) -> AsyncClient:
    return AsyncClient(url, token, patience=patience, notify=notify)
