"""Who a connection is. A token names a client; it is signed, so it holds after a restart and nobody can make one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import jwt

from pipeline.errors import Unauthorized
from pipeline.intake import Identity
from pipeline.messages import LOCAL_OWNER


class Tokens:
    """Issues and reads the tokens of one server. secret: kept in DATA_DIR, readable by the server's user only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def stored(cls, path: Path) -> Tokens:
        """With the secret at `path`, which is made at the first start."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        with os.fdopen(descriptor, "wb") as file:
            secret = secrets.token_bytes(32)
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
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
