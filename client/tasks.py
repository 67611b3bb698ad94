"""What most programs ask for in one call, made of `submit` and `upload`: transcripts, captions, speech and voices.

Where a call waits for an answer, the job is the call's own: who stops waiting (a timeout, Ctrl-C) cancels it. With an
`idempotency_key` it goes on, since the key is there to ask for it again.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import OptivusError
from .events import Voice, voice_of
from .job import AsyncJob, held
from .web import Content, Report

LocalFile = Content
"""A file of this machine, which is uploaded first: its path, its bytes, or a binary file object.

A string that names no local file is sent as it is: a path on the server, or a file_id.
"""

INLINE_BYTES = 1 << 20
"""Binary content of a message that goes in it; what is more is uploaded first."""


class Tasks(ABC):
    """Mixed into `AsyncClient`, which knows how to submit, upload and ask."""

    @abstractmethod
    async def submit(self, type: str, *, id: Any = None, idempotency_key: str | None = None, **params: Any) -> AsyncJob:
        """Ask for a job."""

    @abstractmethod
    async def upload(self, file: Content, progress: Report | None = None) -> str:
        """Send a file to the server."""

    @abstractmethod
    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The acknowledgement of a control message."""

    async def transcribe(self, file: LocalFile, **params: Any) -> dict[str, Any]:
        """Transcribe a local file, which is uploaded first, or one that the server has. Returns the whole answer.

        file: a local path, bytes, or a binary file object; a string that names no local file is sent as it is: a path
            on the server or a file_id.
        params: the options of ``whisp``: language, task, word_timestamps, initial_prompt, hotwords, vad; and
            formats, e.g. ``["srt", "txt"]``, for texts under ``exports`` of ``transcribe_audio``.
        Raises: FileNotFoundError for a Path that is not there; OptivusError; ServerUnreachable.
        """
        with _absent_here(file):
            return await self._answer("whisp", file=await self._at_server(file), **params)

    async def describe(self, file: LocalFile, **params: Any) -> dict[str, Any]:
        """Say what a picture or a video shows. Returns the whole answer: ``transcribe_img`` or ``transcribe_video``.

        file: as of `transcribe`.
        params: the options of ``flrnc``: prompt (``<CAPTION>``, ``<OD>`` …), text, interval, max_frames.
        Raises: as `transcribe`.
        """
        with _absent_here(file):
            return await self._answer("flrnc", file=await self._at_server(file), **params)

    async def speak(
        self,
        text: str,
        *,
        voice: str | None = None,
        reference: LocalFile | None = None,
        reference_text: str | None = None,
        audio_format: str = "wav",
        **params: Any,
    ) -> dict[str, Any]:
        """Say a text. Returns the whole answer: ``audio_data`` (bytes), ``sample_rate`` (Hz), ``duration`` (s), and as
        ``fish`` where the server keeps the sound.

        voice: the reference_id of a saved voice; reference, reference_text: or a recording of one and what is said in
            it. Neither: the model's own.
        audio_format: ``wav``, ``mp3``, ``opus``, ``pcm`` (pcm_s16le, mono), ``list`` (of floats), or ``none``: no
            sound in the answer.
        params: other options of ``fish``: temperature, top_p, repetition_penalty, seed, chunk_length, max_new_tokens.
        Raises: FileNotFoundError for a Path that is not there; OptivusError (VOICE_NOT_FOUND, TEXT_TOO_LONG …);
            ServerUnreachable.
        """
        asked = await self._speech(text, voice, reference, reference_text)
        with _absent_here(reference):
            return await self._answer("fish", **asked, audio_format=audio_format, **params)

    async def stream_speech(
        self,
        text: str,
        *,
        voice: str | None = None,
        reference: LocalFile | None = None,
        reference_text: str | None = None,
        audio_format: str = "none",
        **params: Any,
    ) -> AsyncJob:
        """Say a text and be given the sound as it is made, by `AsyncJob.audio` of the job; parameters as of `speak`.

        audio_format: in which the job's answer has the sound once more; by default it does not.
        """
        asked = await self._speech(text, voice, reference, reference_text)
        with _absent_here(reference):
            return await self.submit("fish", **asked, stream=True, audio_format=audio_format, **params)

    async def save_voice(
        self, recording: LocalFile, text: str | None = None, *, name: str | None = None, description: str | None = None
    ) -> str:
        """Keep a voice for `speak`. Returns its reference_id.

        recording: 1 to 60 s of one person speaking; text: what is said in it, by default as the server understands it.
        Raises: FileNotFoundError for a Path that is not there; OptivusError (INVALID_INPUT when it cannot serve as a
            voice, …); ServerUnreachable.
        """
        about = given(reference_text=text, name=name, description=description)
        with _absent_here(recording):
            answer = await self._answer("fish", reference_audio=await self._at_server(recording), **about)
            return str(answer["reference_id"])

    async def voices(self) -> list[Voice]:
        """The saved voices of this client's owner, newest first."""
        return [voice_of(row) for row in (await self._ask({"type": "voices"}))["voices"]]

    async def delete_voice(self, reference_id: str) -> None:
        """Forget a saved voice. Raises: OptivusError (VOICE_NOT_FOUND); ServerUnreachable."""
        await self._ask({"type": "delete_voice", "reference_id": reference_id})

    async def _speech(
        self, text: str, voice: str | None, reference: LocalFile | None, reference_text: str | None
    ) -> dict[str, Any]:
        recording = None if reference is None else await self._at_server(reference)
        return {
            "text": text,
            **given(reference_id=voice, reference_audio=recording, reference_text=reference_text),
        }

    async def _answer(self, type: str, **params: Any) -> dict[str, Any]:
        """The answer of a job that is cancelled when the waiting for it is."""
        if params.get("idempotency_key") is not None:
            return await (await self.submit(type, **params)).result()
        async with held(self.submit(type, **params)) as job:
            return await job.result()

    async def _at_server(self, file: LocalFile) -> str | bytes:
        """What a message says for a file. Small content goes in the message itself."""
        if isinstance(file, (bytes, bytearray, memoryview)):
            return bytes(file)
        if isinstance(file, str) and not await asyncio.to_thread(Path(file).is_file):
            return file
        return await self.upload(file)


@contextmanager
def _absent_here(file: LocalFile | None) -> Iterator[None]:
    """What looks like a path and was sent as it is may have been meant for this machine: the server's error says so."""
    try:
        yield
    except OptivusError as exc:
        is_path = isinstance(file, str) and (Path(file).suffix or len(Path(file).parts) > 1)
        if not is_path or exc.code not in ("FILE_NOT_FOUND", "FILE_FORBIDDEN"):
            raise
        raise OptivusError(f"{exc.message} On this machine there is no file {file!r}.", exc.code, exc.details) from exc


def given(**params: Any) -> dict[str, Any]:
    """The parameters that were given: those that are not None."""
    return {name: value for name, value in params.items() if value is not None}


class Sendable:
    """A message's parameters as a message can carry them: paths as text, large content and file objects uploaded."""

    def __init__(self, upload: Callable[[Content], Awaitable[str]]) -> None:
        self._upload = upload
        self._inline = 0

    async def dict(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: await self._value(value) for name, value in values.items()}

    async def _value(self, value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            self._inline += memoryview(value).nbytes
            return bytes(value) if self._inline <= INLINE_BYTES else await self._upload(value)
        if isinstance(value, Mapping):
            return await self.dict(value)
        if isinstance(value, (list, tuple)):
            return [await self._value(each) for each in value]
        return await self._upload(value) if hasattr(value, "read") else value
