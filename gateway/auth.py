"""Who a connection is. A token names a client; it is signed, so it holds after a restart and nobody can make one."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cachetools import TTLCache

from contract.errors import JobNotFound, Unauthorized
from contract.messages import LOCAL_OWNER
from pipeline.intake import Identity


class Tokens:
    """Issues and reads the tokens of one server. secret: kept in DATA_DIR, readable by the server's user only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def stored(cls, path: Path) -> Tokens:
        """With the secret at `path`, which is made at the first start; it is there whole or not at all."""
        with contextlib.suppress(FileNotFoundError):
            if secret := path.read_bytes():
                return cls(secret)
        secret, new = secrets.token_bytes(32), path.with_name(f"{path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        return cls(secret)

    def issue(self, client: str | None = None) -> tuple[Identity, str]:
        """A client's token; a new client's unless one is named."""
        client = client or f"client_{secrets.token_hex(12)}"
        return Identity(client, LOCAL_OWNER), jwt.encode({"client": client}, self._secret, algorithm="HS256")

    def read(self, token: Any) -> Identity:
        """Who a token names. Raises: Unauthorized."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=["HS256"])
            return Identity(claims["client"], claims.get("owner", LOCAL_OWNER))
        except (jwt.InvalidTokenError, KeyError, UnicodeError) as exc:
            raise Unauthorized("This token is not one of this server's; connect without one to get a new one.") from exc

    def of_header(self, authorization: str | None) -> Identity:
        """Who an HTTP request is from, by its `Authorization`; none is a new client's. Raises: Unauthorized."""
        if authorization is None:
            return self.issue()[0]
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("Send the token as 'Authorization: Bearer …'.")
        return self.read(token.strip())


TICKET_SECONDS = 60
MAX_TICKETS = 10_000


class Ticket(NamedTuple):
    secret: str
    client: str


class Tickets:
    """Each opens the events of one job, for what can send no token: a browser's `EventSource`.

    It stands in a URL, where others may read it, and so is good for a minute; for longer only while it is in use, since
    an `EventSource` comes back with it when the line has broken.
    """

    def __init__(self, seconds: float = TICKET_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._of_job: TTLCache[str, Ticket] = TTLCache(MAX_TICKETS, seconds, clock)

    def issue(self, job_id: str, client: str) -> str:
        """The job's ticket. From now on it is good for the whole time again."""
        known = self._of_job.get(job_id)
        ticket = self._of_job[job_id] = known or Ticket(secrets.token_urlsafe(24), client)
        return ticket.secret

    def client(self, job_id: str, secret: str) -> str:
        """Whose job it is. Raises: JobNotFound, the same for every ticket that does not open this job's events."""
        ticket = self._of_job.get(job_id)
        given = secret.encode(errors="replace")
        if ticket is None or not hmac.compare_digest(ticket.secret.encode(), given):
            raise JobNotFound(
                "This ticket opens no events, or no longer; get a new one with POST /jobs/{job_id}/ticket."
            )
        return ticket.client
