"""A lasting line to the server, made of as many connections as it takes.

    open ─▶ connected ─lost─▶ reconnecting ─▶ connected …
                                   └─ longer than `patience` ─▶ failed, for good

Every connection after the first presents the token of the first, so the server takes it for the same client; where it
no longer knows the token (its data are gone), this client becomes a new one, says so, and goes on. A message whose
acknowledgement was lost is sent again on the next connection: `submit` is safe by its idempotency key, the control
messages by their nature. One that came too soon after others (RATE_LIMITED) is sent again when the server says.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from .connection import Connection, ConnectionLost, Receive
from .errors import OptivusError, ServerUnreachable, error_of
from .warn import warn

FIRST_DELAY = 0.05
LONGEST_DELAY = 5.0
SENDS = 5
"""A message that loses its connection so often in a row is taken for the reason, most likely by its size."""

T = TypeVar("T")


def backoff() -> Iterator[float]:
    """Seconds to wait before each further try: doubling, and spread so that many clients do not come back at once."""
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, LONGEST_DELAY)


async def unhurried(ask: Callable[[], Awaitable[T]], patience: float | None) -> T:
    """What `ask` gives; asked again after as long as the server says where this address has asked too often.

    patience: seconds to wait in all, None for any number. Raises: what `ask` does, also when that is not enough.
    """
    left = math.inf if patience is None else patience
    while True:
        try:
            return await ask()
        except OptivusError as exc:
            if exc.code != "RATE_LIMITED" or exc.retry_after is None or exc.retry_after > left:
                raise
            wait = max(exc.retry_after, FIRST_DELAY)
        left -= wait
        await asyncio.sleep(wait)


class Link:
    """`connections` counts the connections so far; `token` names the client to the server."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        receive: Receive,
        connected: Callable[[], None],
        failed: Callable[[OptivusError], None],
        notify: Callable[[bool], None],
        patience: float | None,
    ) -> None:
        self.url = url
        self.token = token
        self.connections = 0
        self._receive = receive
        self._connected = connected
        self._failed = failed
        self._notify = notify
        self._patience = patience
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # cleared while reconnecting
        self._settled.set()
        self._failure: OptivusError | None = None

    async def open(self) -> None:
        """The first connection, tried once. Raises: ServerUnreachable, OptivusError."""
        self._adopt(await self._opened())
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Leave; whoever still waits for the server is told so."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._fail(OptivusError("The client was closed.", "CLIENT_CLOSED"))
        if self._connection is not None:
            await self._connection.close()

    async def ask(self, message: dict[str, Any], event: str = "message") -> dict[str, Any]:
        """A message's acknowledgement, over as many connections as that takes.

        Raises: OptivusError when the server refuses, or by INVALID_INPUT what no server could read; ServerUnreachable;
            TypeError when it is not JSON.
        """
        _check(message)
        return await unhurried(lambda: self._ask(message, event), self._patience)

    async def _ask(self, message: dict[str, Any], event: str) -> dict[str, Any]:
        for _ in range(SENDS):
            connection = await self._current()
            try:
                answer = await connection.ask(message, event)
            except ConnectionLost:
                if connection is self._connection:
                    self._settled.clear()
                continue
            if answer.get("status") == "error":
                raise error_of(answer)
            return answer
        raise ServerUnreachable(
            f"The server at {self.url} closed the connection {SENDS} times on this message; upload large content first."
        )

    async def ask_once(self, message: dict[str, Any]) -> dict[str, Any]:
        """Like `ask`, but on the connection that is up now. Raises also: ConnectionLost."""
        connection = await self._current()

        async def once() -> dict[str, Any]:
            answer = await connection.ask(message)
            if answer.get("status") == "error":
                raise error_of(answer)
            return answer

        return await unhurried(once, self._patience)

    async def ready(self) -> None:
        """Wait for the connection while it is being regained. Raises: OptivusError, ServerUnreachable."""
        await self._current()

    async def _current(self) -> Connection:
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure
        if self._connection is None:
            raise OptivusError("The client is not connected; use it in a `with` statement.", "CLIENT_CLOSED")
        return self._connection

    async def _keep(self) -> None:
        while self._connection is not None:
            await asyncio.shield(self._connection.lost)
            self._settled.clear()
            self._notify(False)
            try:
                async with asyncio.timeout(self._patience):
                    connection = await self._reconnected()
            except TimeoutError:
                self._fail(
                    ServerUnreachable(
                        f"The connection to {self.url} was lost and not regained within {self._patience:g} s; jobs go "
                        "on there, connect again with this client's token to read their answers."
                    )
                )
                return
            except OptivusError as exc:
                self._fail(exc)
                return
            self._notify(True)
            self._adopt(connection)

    async def _reconnected(self) -> Connection:
        for delay in backoff():
            await asyncio.sleep(delay)
            try:
                return await self._opened()
            except OptivusError as exc:  # a refusal too: a server that starts or drains refuses for a while
                if exc.code == "UNAUTHORIZED":
                    raise
        raise AssertionError("backoff() never ends")

    async def _opened(self) -> Connection:
        """A connection as the client that we were, or as a new one when the server has lost its data."""
        try:
            return await Connection.open(self.url, self.token, self._receive)
        except OptivusError as exc:
            if exc.code != "UNAUTHORIZED" or self.token is None:
                raise
        connection = await Connection.open(self.url, None, self._receive)
        warn([f"The server at {self.url} no longer knows this client, and made it a new one; earlier jobs are gone."])
        return connection

    def _adopt(self, connection: Connection) -> None:
        self._connection = connection
        self.token = str(connection.session.result()["token"])
        self.connections += 1
        self._settled.set()
        self._connected()

    def _fail(self, failure: OptivusError) -> None:
        if self._failure is None:
            self._failure = failure
            self._settled.set()
            self._failed(failure)


def _check(message: Mapping[str, Any]) -> None:
    """Refuse what Python writes as JSON but nobody can read, naming its parameter. Raises: OptivusError."""
    for name, value in message.items():
        try:
            json.dumps({name: value}, ensure_ascii=False, allow_nan=False, default=_binary).encode()
        except UnicodeEncodeError as exc:
            sentence = f"{name!r} holds what is no text: half of a UTF-16 pair, or bytes that are not UTF-8."
            raise OptivusError(sentence, "INVALID_INPUT", {"field": name}) from exc
        except ValueError as exc:
            sentence = f"{name!r} holds NaN or an infinity; give finite numbers."
            raise OptivusError(sentence, "INVALID_INPUT", {"field": name}) from exc


def _binary(value: object) -> str:
    """A stand-in for bytes, which travel beside the JSON."""
    if isinstance(value, bytes | bytearray):
        return ""
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
