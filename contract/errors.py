"""Every error that a client can be answered with, and the one place where exceptions become answers.

Each class carries its whole answer: the code of the protocol, the HTTP status, how often a task that failed so is
tried before the failure is final, and one sentence a person can act on. Whatever is not a `ServiceError` is `INTERNAL`:
its text stays in the log, since it may name paths of the server.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ServiceError(Exception):
    """An error with an answer.

    message: one sentence that tells the reader of the answer what to do.
    details: facts about the error, JSON-serialisable, e.g. ``{"field": "file"}``. ``"retry": True`` says that the same
    task may succeed later, and ``retry_after`` after how many seconds, where that is known.
    """

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    tries: ClassVar[int] = 1

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def answer(self) -> dict[str, Any]:
        """The error's part of an answer: ``error_code``, ``message`` and, when there are any, ``details``."""
        body: dict[str, Any] = {"error_code": self.code, "message": self.message}
        if self.details:
            body["details"] = self.details
        return body


class InvalidInput(ServiceError):
    code, status = "INVALID_INPUT", 400


class UnknownType(ServiceError):
    code, status = "UNKNOWN_TYPE", 400


class TextTooLong(ServiceError):
    code, status = "TEXT_TOO_LONG", 400


class Unauthorized(ServiceError):
    code, status = "UNAUTHORIZED", 401


class FileForbidden(ServiceError):
    code, status = "FILE_FORBIDDEN", 403


class UrlForbidden(ServiceError):
    code, status = "URL_FORBIDDEN", 403


class OriginForbidden(ServiceError):
    code, status = "ORIGIN_FORBIDDEN", 403


class HostForbidden(ServiceError):
    code, status = "HOST_FORBIDDEN", 403


class FileNotFound(ServiceError):
    code, status = "FILE_NOT_FOUND", 404


class VoiceNotFound(ServiceError):
    code, status = "VOICE_NOT_FOUND", 404


class JobNotFound(ServiceError):
    code, status = "JOB_NOT_FOUND", 404


class NotFound(ServiceError):
    """A path that no door has."""

    code, status = "NOT_FOUND", 404


class MethodNotAllowed(ServiceError):
    code, status = "METHOD_NOT_ALLOWED", 405


class TooLarge(ServiceError):
    code, status = "TOO_LARGE", 413


class UnsupportedMedia(ServiceError):
    code, status = "UNSUPPORTED_MEDIA", 415


class NoAudio(ServiceError):
    code, status = "NO_AUDIO", 415


class NoVideo(ServiceError):
    code, status = "NO_VIDEO", 415


class DownloadFailed(ServiceError):
    code, status = "DOWNLOAD_FAILED", 502


class RateLimited(ServiceError):
    """Somebody asked for too much in a while. details: ``retry_after``, in seconds."""

    code, status = "RATE_LIMITED", 429


class QueueFull(ServiceError):
    code, status = "QUEUE_FULL", 503


class Draining(ServiceError):
    code, status = "DRAINING", 503


class ModelUnavailable(ServiceError):
    code, status = "MODEL_UNAVAILABLE", 503


class DiskFull(ServiceError):
    code, status = "DISK_FULL", 503


class DeadlineExceeded(ServiceError):
    code, status = "DEADLINE_EXCEEDED", 504


class WorkerDied(ServiceError):
    code, status, tries = "WORKER_DIED", 500, 3


class OutOfMemory(ServiceError):
    code, status, tries = "OUT_OF_MEMORY", 500, 2


class Internal(ServiceError):
    code, status = "INTERNAL", 500


def _tree(cls: type[ServiceError]) -> dict[str, type[ServiceError]]:
    return {cls.code: cls} | {code: error for sub in cls.__subclasses__() for code, error in _tree(sub).items()}


ERRORS: dict[str, type[ServiceError]] = _tree(ServiceError)
"""Code → class, for the retry rule, the HTTP status and the generated documents."""


def switched_off(worker: str, setting: str) -> ModelUnavailable:
    """setting: the one that does so, such as `AI_FISH_MODEL=none`."""
    return ModelUnavailable(f"The worker {worker} is switched off on this server, by its setting {setting}.")


def as_failure(exc: BaseException) -> dict[str, Any]:
    """The answer to any exception: the only conversion in the project."""
    if isinstance(exc, ServiceError):
        return exc.answer()
    if isinstance(exc, MemoryError):
        return OutOfMemory("There was not enough memory for this request; send a smaller file or free memory.").answer()
    if isinstance(exc, OSError) and exc.errno in (28, 122):  # ENOSPC, EDQUOT
        return DiskFull("The server's disk is full; free space under DATA_DIR and send the request again.").answer()
    return Internal("The server failed on this request; its log has the reason.", error=type(exc).__name__).answer()
