"""What goes over HTTP: files in both directions, answers that were cut short, and how the server is.

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
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

import aiohttp

from .errors import OptivusError, ServerUnreachable
from .link import unhurried

Report = Callable[[int, int], None]
"""Called with the bytes so far and the bytes in all; the latter is 0 while nobody knows."""


class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size` or, when that is negative, all; none at the end."""


Content = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable
"""A file of this machine: its path, its content, or a binary file object, which is read from where it stands."""

# There is no limit on the whole, since an upload may take hours. A server that is silent for so long is gone.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=10)
PIECE = 1 << 18


def base_url(url: str) -> str:
    """``scheme://host:port/path``, with no slash at its end: below it Socket.IO and HTTP live.

    url: also as it was copied from the page, or from that of the documents. Raises: OptivusError (INVALID_INPUT).
    """
    try:
        parts = urlsplit(url.strip() if "://" in url else f"http://{url.strip()}")
        proper = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        proper = False
    if not proper:
        sentence = f"{url!r} is no address of a server; give one such as http://127.0.0.1:5000 or https://host/media."
        raise OptivusError(sentence, "INVALID_INPUT", {"field": "url"})
    if parts.username is not None:
        sentence = (  # without the address, which holds the password
            f"The address of {parts.hostname} has a user name in it; leave it out. The client's token travels where a "
            "user and a password would (Authorization), so a proxy that asks for them cannot be passed."
        )
        raise OptivusError(sentence, "INVALID_INPUT", {"field": "url"})
    path = parts.path.rstrip("/").removesuffix("/docs").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


class Web:
    """The HTTP side of one client. url: of the server, with no slash at its end.

    patience: seconds to wait, at most, where this address has asked too often; None for any number.
    """

    def __init__(self, url: str, token: Callable[[], str | None], patience: float | None = 0) -> None:
        self.url = url
        self._token = token
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def upload(self, content: Content, report: Report | None) -> str:
        """POST a file, streamed. Returns its file_id. Raises: OSError, OptivusError, ServerUnreachable."""
        again = 0 if hasattr(content, "read") else self._patience  # what was read of a file object is gone
        return await unhurried(lambda: self._upload(content, report), again)

    async def _upload(self, content: Content, report: Report | None) -> str:
        file = await asyncio.to_thread(_opened, content, asyncio.get_running_loop(), report)
        with file:
            form = aiohttp.FormData()
            form.add_field("file", file, filename=_told(file), content_type="application/octet-stream")
            try:
                async with self._request("POST", "/files", data=form) as answer:
                    return str(answer["file_id"])
            except OptivusError:
                if file.failure is not None:  # reading the file failed on this side
                    raise file.failure from None
                raise

    async def get(self, path: str, **options: Any) -> dict[str, Any]:
        """GET a JSON object. Raises: OptivusError, ServerUnreachable."""
        return await unhurried(lambda: self._get(path, options), self._patience)

    async def _get(self, path: str, options: dict[str, Any]) -> dict[str, Any]:
        async with self._request("GET", path, **options) as answer:
            return answer

    async def whole(self, result_url: str) -> dict[str, Any]:
        """The answer that a message had no room for. Raises: OptivusError, ServerUnreachable."""
        # Only the route counts: behind a proxy the server may not know the address and the path it is reached by, and
        # the token must not go anywhere else.
        job = urlsplit(result_url).path.rpartition("jobs/")[2]
        return dict((await self.get(f"/jobs/{job}"))["answer"])

    async def download(self, file: str, into: BinaryIO, report: Report | None) -> str:
        """GET a file that the server keeps, from where `into` stands on. Returns its name.

        file: a file_id, or the path of what the server made. Raises: OSError, OptivusError, ServerUnreachable.
        """
        return await unhurried(lambda: self._download(file, into, report), self._patience)

    async def _download(self, file: str, into: BinaryIO, report: Report | None) -> str:
        there = into.tell()
        options: dict[str, Any] = {"headers": {"Range": f"bytes={there}-"}} if there else {}
        path = f"/files/{file}" if re.fullmatch(r"file_\w+", file) else "/files"
        if path == "/files":
            options["params"] = {"path": file}
        async with self._response("GET", path, **options) as response:
            if response.status != 206:
                there = into.seek(0)
                into.truncate()
            total = there + (response.content_length or 0)
            async for piece in response.content.iter_chunked(PIECE):
                await asyncio.to_thread(into.write, piece)
                there += len(piece)
                if report is not None:
                    report(there, total)
            disposition = response.content_disposition
            return (disposition and disposition.filename) or file.rpartition("/")[2]

    @asynccontextmanager
    async def _request(self, method: str, path: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
        async with self._response(method, path, **options) as response:
            answer = await _json(response)
        yield answer

    @asynccontextmanager
    async def _response(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that is no error. Raises: OptivusError, ServerUnreachable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        token = self._token()
        headers = {**options.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            async with self._session.request(method, self.url + path, headers=headers, **options) as response:
                if response.status >= 400:
                    raise _refusal(await _json(response), f"{method} {self.url}{path}", response.status)
                yield response
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ServerUnreachable(f"{method} {self.url}{path} broke off ({exc or 'timeout'}); try again.") from exc


class _Sent(io.RawIOBase):
    """A file that tells how far it has been read, and why it could not be. aiohttp reads it in pieces, in a thread.

    file: our own, or the caller's, which is read on from where it stands and never closed.
    """

    def __init__(self, file: io.FileIO | Readable, title: str, report: Report) -> None:
        self.title = title
        self.failure: Exception | None = None
        self._file = file
        self._own = file if isinstance(file, io.FileIO) else None
        self._total = _left(file)
        self._report = report
        self._done = 0

    def read(self, size: int = -1, /) -> bytes:
        try:
            piece = self._file.read(size)
        except Exception as exc:  # whatever a caller's object raises; aiohttp would call it a lost connection
            self.failure = exc
            raise
        self._done += len(piece)
        if piece:
            self._report(min(self._done, self._total or self._done), self._total)
        return piece

    def tell(self) -> int:
        return self._done

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Called by aiohttp before it sends the file again after a redirect."""
        if self._own is None:
            raise io.UnsupportedOperation("seek")
        self._done = self._own.seek(offset, whence)
        return self._done

    def fileno(self) -> int:
        """By this aiohttp finds the size. Only our own file has it, since a caller's (gzip's) may be another file's."""
        if self._own is None:
            raise io.UnsupportedOperation("fileno")
        return self._own.fileno()

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
        super().close()


def _opened(content: Content, loop: asyncio.AbstractEventLoop, report: Report | None) -> _Sent:
    def told(done: int, total: int) -> None:
        if report is not None:
            loop.call_soon_threadsafe(report, done, total)

    if isinstance(content, (str, os.PathLike)):
        return _Sent(io.FileIO(content), Path(content).name, told)
    if isinstance(content, (bytes, bytearray, memoryview)):
        content = io.BytesIO(content)
    if not hasattr(content, "read") or not isinstance(content.read(0), bytes):
        raise TypeError('A file is a path, bytes, or a file object in binary mode, as of open(path, "rb").')
    name = getattr(content, "name", None)
    return _Sent(content, Path(name).name if isinstance(name, str) else "content", told)


def _left(file: Any) -> int:
    """Bytes from where a file object stands to its end; 0 when it cannot say."""
    try:
        here: int = file.tell()
        end: int = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError, ValueError):
        return 0
    return end - here


def _told(file: _Sent) -> str:
    """A file's name without what no header may hold: control characters, and bytes that are not UTF-8."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "?", file.title)


def with_bytes(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as it would have come in a message: sound that JSON could only hold as base64 is bytes again."""
    if isinstance(sound := answer.get("audio_data"), str):
        answer = {**answer, "audio_data": b64decode(sound)}
    if isinstance(items := answer.get("data"), list):
        answer = {**answer, "data": [with_bytes(item) if isinstance(item, dict) else item for item in items]}
    return answer


def _refusal(answer: dict[str, Any], asked: str, status: int) -> OptivusError:
    message = answer.get("message") or f"{asked} was answered with status {status}."
    return OptivusError(str(message), str(answer.get("error_code", "INTERNAL")), answer.get("details"))


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The answer's object; {} for anything else, such as a proxy's page."""
    if response.content_type != "application/json":
        return {}
    answer = await response.json()
    return answer if isinstance(answer, dict) else {}
