"""What goes over HTTP because it is too large for a message: uploads, and answers that were cut short.

The client's token travels as `Authorization: Bearer …`, so files and jobs belong to the same client as on the socket.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from .errors import OptivusError, ServerUnreachable

Report = Callable[[int, int], None]
"""Called with the bytes sent so far and the bytes in all."""

# No limit on the whole, since an upload may take hours; a server that is silent for so long between two reads is gone.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)


class Web:
    """The HTTP side of one client."""

    def __init__(self, url: str, token: Callable[[], str | None]) -> None:
        self.url = url
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def upload(self, path: str | os.PathLike[str], report: Report | None) -> str:
        """POST a file, streamed. Returns its file_id. Raises: OSError, OptivusError, ServerUnreachable."""
        file = await asyncio.to_thread(_Reported, path, asyncio.get_running_loop(), report)
        with file:
            form = aiohttp.FormData()
            form.add_field("file", file, filename=_told(Path(path).name), content_type="application/octet-stream")
            async with self._request("POST", "/files", data=form) as answer:
                return str(answer["file_id"])

    async def get(self, path: str) -> dict[str, Any]:
        """GET a JSON object. Raises: OptivusError, ServerUnreachable."""
        # Only the path of a `result_url` counts: behind a proxy the server may not know the address it is reached by,
        # and the token must not go anywhere else.
        async with self._request("GET", urlsplit(path).path) as answer:
            return answer

    @asynccontextmanager
    async def _request(self, method: str, path: str, **body: Any) -> AsyncIterator[dict[str, Any]]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._session.request(method, self.url + path, headers=headers, **body) as response:
                answer = await _json(response)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ServerUnreachable(f"{method} {self.url}{path} broke off ({exc or 'timeout'}); try again.") from exc
        if response.status >= 400:
            message = answer.get("message") or f"{method} {self.url}{path} was answered with status {response.status}."
            raise OptivusError(str(message), str(answer.get("error_code", "INTERNAL")), answer.get("details"))
        yield answer


class _Reported(io.BufferedReader):
    """A file that tells, in the event loop, how far it has been read. aiohttp reads it in pieces, in a thread."""

    def __init__(self, path: str | os.PathLike[str], loop: asyncio.AbstractEventLoop, report: Report | None) -> None:
        super().__init__(io.FileIO(Path(path)))  # aiohttp would make a header of a name in str
        self._loop = loop
        self._report = report
        self._total = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self._report is not None and piece:
            self._loop.call_soon_threadsafe(self._report, min(self.tell(), self._total), self._total)
        return piece


def _told(name: str) -> str:
    """A file's name without what no header may hold: control characters, and bytes that are not UTF-8."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "?", name)


def with_bytes(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as it would have come in a message: sound that JSON could only hold as base64 is bytes again."""
    if isinstance(sound := answer.get("audio_data"), str):
        answer = {**answer, "audio_data": b64decode(sound)}
    if isinstance(items := answer.get("data"), list):
        answer = {**answer, "data": [with_bytes(item) if isinstance(item, dict) else item for item in items]}
    return answer


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The answer's object; {} for anything else, such as a proxy's page."""
    if response.content_type != "application/json":
        return {}
    answer = await response.json()
    return answer if isinstance(answer, dict) else {}
