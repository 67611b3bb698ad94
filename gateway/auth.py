"""Who asks: the same list of authenticators for every door.

    Authorization: Bearer … ─┐
                             ├─▶ Credentials ─▶ each authenticator in order, until one knows them ─▶ Identity
    auth: {"token": …} ──────┘

A token names a client; it is signed, so it holds after a restart and nobody can make one.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jwt
import structlog
from aiohttp import web
from cachetools import TTLCache

from contract.errors import JobNotFound, Unauthorized
from contract.folders import KEY_BYTES
from contract.identity import Identity, Party
from contract.messages import LOCAL_OWNER
from gateway.origins import PEER, counted_as
from storage.ledger import Unusable

log = structlog.get_logger()


class Credentials(NamedTuple):
    """What a client shows of itself. token: whatever it sent as that, None for none; peer: its network address."""

    token: Any
    peer: str | None

    @classmethod
    def of(cls, request: web.Request) -> Credentials:
        """Those of an HTTP request. Raises: Unauthorized when its `Authorization` is none of ours."""
        authorization = request.headers.get("Authorization")
        if authorization is None:
            return cls.sent(None, request)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("Send the token as 'Authorization: Bearer …'.")
        return cls.sent(token.strip(), request)

    @classmethod
    def sent(cls, token: Any, request: web.Request) -> Credentials:
        """A token that came by the connection of this request."""
        return cls(token, request.get(PEER, request.remote))


class Authenticator(Protocol):
    """Knows some clients by what they show."""

    def identity(self, shown: Credentials) -> Identity | None:
        """Who shows these; None when that is for another to say."""


class Tokens:
    """Issues and reads the tokens of one server. secret: kept in DATA_DIR, readable by the server's user only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def stored(cls, path: Path) -> Tokens:
        """With the secret at `path`, which is made at the first start; it is there whole or not at all.

        A shorter one, such as a full disk leaves, would be anybody's to guess. Raises: Unusable.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                if len(secret := path.read_bytes()) >= KEY_BYTES:
                    return cls(secret)
                log.warning("key_made_anew", path=str(path), reason="it was cut short; clients get new tokens")
            return cls(_made(path))
        except OSError as exc:
            raise Unusable(
                f"{path} cannot be used: {exc.strerror}; the server must be able to keep its key there."
            ) from exc

    def identity(self, shown: Credentials) -> Identity | None:
        """Who a token names; a new client for who shows none."""
        if shown.token is None:
            return Identity.newcomer(f"client_{secrets.token_hex(12)}", counted_as(shown.peer))
        try:
            claims = jwt.decode(shown.token, self._secret, algorithms=["HS256"])
            return Identity.known(claims["client"], claims.get("owner", LOCAL_OWNER))
        except (jwt.InvalidTokenError, KeyError, UnicodeError):
            return None

    def issue(self, who: Identity) -> str:
        """The token that names a client."""
        return jwt.encode({"client": who.client}, self._secret, algorithm="HS256")


def _made(path: Path) -> bytes:
    """A new secret, on the disk as a whole file before it has its name."""
    secret, new = secrets.token_bytes(KEY_BYTES), path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return secret


class Authenticators:
    """What every door asks who somebody is.

    tokens: the last to be asked, and what a client is given that came without credentials. others: asked before them,
    in order.
    """

    def __init__(self, tokens: Tokens, *others: Authenticator) -> None:
        self._asked = (*others, tokens)
        self._tokens = tokens

    def identity(self, shown: Credentials) -> Identity:
        """Raises: Unauthorized."""
        for authenticator in self._asked:
            if (who := authenticator.identity(shown)) is not None:
                return who._replace(address=counted_as(shown.peer))
        raise Unauthorized("This token is not one of this server's; connect without one to get a new one.")

    def who(self, request: web.Request) -> Identity:
        """Who sends an HTTP request; one without credentials is a new client's. Raises: Unauthorized."""
        return self.identity(Credentials.of(request))

    def known(self, request: web.Request) -> Identity | None:
        """The same, but None for a request without credentials. Raises: Unauthorized."""
        shown = Credentials.of(request)
        return None if shown.token is None else self.identity(shown)

    def token(self, who: Identity) -> str:
        """By which a client that came without credentials is known from now on."""
        return self._tokens.issue(who)


TICKET_SECONDS = 60
MAX_TICKETS = 10_000


class Ticket(NamedTuple):
    secret: str
    who: Party


class Tickets:
    """Each opens the events of one job, for what can send no token: a browser's `EventSource`.

    It stands in a URL, where others may read it, and so is good for a minute; for longer only while it is in use, since
    an `EventSource` comes back with it when the line has broken.
    """

    def __init__(self, seconds: float = TICKET_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._of_job: TTLCache[str, Ticket] = TTLCache(MAX_TICKETS, seconds, clock)

    def issue(self, job_id: str, who: Party) -> str:
        """The job's ticket. From now on it is good for the whole time again."""
        known = self._of_job.get(job_id)
        ticket = self._of_job[job_id] = known or Ticket(secrets.token_urlsafe(24), who)
        return ticket.secret

    def who(self, job_id: str, secret: str) -> Party:
        """Who asked for it. Raises: JobNotFound, the same for every ticket that does not open this job's events."""
        ticket = self._of_job.get(job_id)
        given = secret.encode(errors="replace")
        if ticket is None or not hmac.compare_digest(ticket.secret.encode(), given):
            raise JobNotFound(
                "This ticket opens no events, or no longer; get a new one with POST /jobs/{job_id}/ticket."
            )
        return ticket.who
