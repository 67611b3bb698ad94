"""What can go wrong, for the person who reads it: a sentence that says what to do, and a code for the program.

`OptivusError` carries the server's own code, sentence and details (the codes stand in the README); its subclasses are
what a script wants to tell apart without comparing strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OptivusError(Exception):
    """An error answer.

    code: as the server names it, e.g. ``FILE_NOT_FOUND``.
    message: one sentence a person can act on; also ``str(error)``.
    details: facts about the error, e.g. ``{"field": "file"}``.
    """

    def __init__(self, message: str, code: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details: dict[str, Any] = dict(details or {})

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the same request has a chance, where the server said so (QUEUE_FULL, RATE_LIMITED)."""
        seconds = self.details.get("retry_after")
        return None if seconds is None else float(seconds)


class Cancelled(OptivusError):
    """The job was cancelled before it was finished. Its code is ``CANCELLED``."""

    def __init__(self, message: str = "The job was cancelled.", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, "CANCELLED", details)


class ServerUnreachable(OptivusError):
    """There is no connection to the server, or it stayed away for too long. Its code is ``SERVER_UNREACHABLE``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "SERVER_UNREACHABLE")


def no_server_at(url: str) -> ServerUnreachable:
    """The error for an address at which there is no server, or something else."""
    return ServerUnreachable(f"No Optivus server answers at {url}; start it with `make run`, or give its address.")


def error_of(answer: Mapping[str, Any]) -> OptivusError:
    """The exception for an answer whose status is ``error`` or ``cancelled``."""
    if answer.get("status") == "cancelled":
        return Cancelled(details=answer.get("details"))
    message = str(answer.get("message") or "The server reported an error without saying which.")
    return OptivusError(message, str(answer.get("error_code", "INTERNAL")), answer.get("details"))
