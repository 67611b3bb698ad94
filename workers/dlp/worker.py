"""Downloads with yt-dlp: the `dlp` message. What is behind each URL, and its file under PATH_VIDEO.

    urls ─▶ a task for each ─▶ look, download into the task's folder ─▶ move whole into PATH_VIDEO ─▶ item
                                  └ three tries, for what may pass

The process stands in the download sandbox (`workers.dlp.sandbox`): no URL, redirect, playlist or name leads it to
a private or local address. A URL that leads to a list is its first entry; `entries` says what else is on the list.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, Field, field_validator

from contract import results
from contract.errors import DownloadFailed, InvalidInput, ServiceError, UrlForbidden
from contract.folders import Folders
from workers.base import AsyncWorker, Confinement, Context, Params, WorkerSettings
from workers.dlp.outcome import discard, item, keep, safe
from workers.runtime.async_engine import in_thread

if TYPE_CHECKING:
    from workers.dlp.fetch import Fetcher

T = TypeVar("T")

log = structlog.get_logger()

TRIES = 3
NEW_TRIES_BYTES = 1 << 20
"""Bytes. A try that got so much further does not count, so a long download over a bad line is not given up."""

MAX_URL_LENGTH = 4096
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(//)?", re.IGNORECASE)
_SMUGGLED = "#__youtubedl_smuggle"
"""yt-dlp takes what follows this in a URL for a note of its own."""


def checked_url(text: str) -> str:
    """A URL that may be tried. Raises: InvalidInput, UrlForbidden."""
    url = text.strip().partition(_SMUGGLED)[0]
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() not in ("http", "https") and (scheme[2] or scheme[1].lower() in ("data", "file")):
        raise UrlForbidden("Only http and https URLs are downloaded.", field="urls")
    try:
        parts = urlsplit(url)
        proper = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        proper = False
    if proper and any(map(str.isspace, url)):
        raise InvalidInput(
            f"{text[:80]!r} has a blank in it, and no URL has one: write it as %20, or send several URLs as a list.",
            field="urls",
        )
    written = all(" " < letter < "\ud800" or letter > "\udfff" for letter in url)  # no controls, no lone surrogates
    if not proper or not written or len(url) > MAX_URL_LENGTH:
        raise InvalidInput(
            f"{text[:80]!r} is no URL that can be downloaded; send one that begins with https:// or http://.",
            field="urls",
        )
    return url


class DlpSettings(WorkerSettings):
    concurrency: int = Field(4, ge=1, le=8, description="downloads side by side")
    max_file_gb: float = Field(4, gt=0, description="largest download, in GB")
    max_hours: float = Field(12, gt=0, description="longest video or audio that is downloaded, in hours")
    max_minutes: float = Field(120, gt=0, description="a download that has not ended by then fails")
    max_entries: int = Field(50, ge=1, le=200, description="entries of a playlist that are listed")
    max_height: int = Field(
        1080, ge=144, description="largest picture height that is chosen where a source has several, in lines"
    )
    socket_timeout: float = Field(20, gt=0, description="seconds without a byte after which a try has failed")
    retry_seconds: float = Field(2, ge=0, description="pause before the second of three tries; the next is double")
    cookies: Path | None = Field(None, description="file with cookies of the sites that want a login (Netscape format)")
    proxy: str = Field(
        "", description="`http://`, `socks5://` … proxy for all downloads; it must refuse private addresses itself"
    )
    allow_private: bool = Field(False, description="downloads may come from private and local addresses too")

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and not (re.fullmatch("http|socks(4a?|5h?)", parts.scheme) and parts.hostname and parts.port):
            raise ValueError("should be like http://host:port or socks5://host:port")
        return value

    @field_validator("cookies")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("there is no such file")
        return value


class DlpParams(Params):
    url: Annotated[str, AfterValidator(checked_url)] = Field(description="http or https URL of a video, or of its page")
    data_type: Literal["info", "file"] = Field("file", description="`info` downloads nothing")


class Dlp(AsyncWorker):
    """Says what is behind a URL, and downloads it."""

    name = "dlp"
    message_type = "dlp"
    answer = "$dlp"
    Params = DlpParams
    Result = results.Download
    Settings = DlpSettings
    example = {"urls": ["http://download.blender.org/peach/trailer/trailer_480p.mov"]}
    open_tasks: ClassVar[int] = 8

    def __init__(self, settings: DlpSettings, folders: Folders) -> None:
        super().__init__(settings, folders)
        self.concurrency = settings.concurrency

    @classmethod
    def confinement(cls, settings: DlpSettings, folders: Folders) -> Confinement:
        return Confinement(writes=(folders.downloads,), network=True)

    def load(self) -> dict[str, Any]:
        """Puts the sandbox around the process; from then on it starts no program but ffmpeg and Deno, confined."""
        from media import ffmpeg
        from workers.dlp import confined
        from workers.dlp.fetch import Access, Limits
        from workers.dlp.sandbox import Rules, Sandbox

        ffmpeg.binary()
        proxy = urlsplit(self.settings.proxy)
        self._sandbox = Sandbox(
            Rules(
                allow_private=self.settings.allow_private,
                proxy=(proxy.hostname, proxy.port) if proxy.hostname and proxy.port else None,
                may_start=lambda words: ffmpeg.is_confined(words) or confined.is_confined_deno(words),
            )
        )
        self._sandbox.install()
        self._limits = Limits(
            bytes=round(self.settings.max_file_gb * 1e9),
            seconds=self.settings.max_hours * 3600,
            entries=self.settings.max_entries,
            height=self.settings.max_height,
        )
        self._access = Access(self.settings.socket_timeout, self.settings.proxy or None, self.settings.cookies)
        return {"device": "cpu"}

    async def run_async(self, params: DlpParams, ctx: Context) -> dict[str, Any]:
        """Result: the documented item; `file` is the path of the file, None for `info`."""
        ctx.progress(None)
        minutes = self.settings.max_minutes
        try:
            async with asyncio.timeout(minutes * 60):
                work = self._look if params.data_type == "info" else self._download
                return await self._tried(params.url, ctx, functools.partial(work, params.url, ctx))
        except TimeoutError as exc:
            raise DownloadFailed(f"The download did not end within {minutes:g} minutes.", reason="timeout") from exc

    def _look(self, url: str, ctx: Context, fetcher: Fetcher) -> dict[str, Any]:
        return item(url, fetcher.look(), None)

    def _download(self, url: str, ctx: Context, fetcher: Fetcher) -> dict[str, Any]:
        found, path, about = fetcher.fetch()
        title = str(found.info.get("title") or "")
        kept = keep(path, self.folders.downloads, title, ctx.key, fetcher.errand.check)
        ctx.made(kept, f"{safe(title)}{kept.suffix}")
        found.info["duration"] = exact(found.info.get("duration"), about.duration)
        return item(url, found, str(kept))

    async def _tried(self, url: str, ctx: Context, work: Callable[[Fetcher], T]) -> T:
        """The work's result. What fails for a reason that may pass is tried again, but where the source says when: that
        is for the plan's stage. Raises: ServiceError.
        """
        from workers.dlp.failures import UNEXPLAINED, as_service_error, passes, pause
        from workers.dlp.fetch import Fetcher
        from workers.dlp.sandbox import Errand

        tried, loaded = 1, 0
        while True:
            errand = Errand()
            fetcher = Fetcher(url, ctx.workdir, self._limits, self._access, self._sandbox, errand, ctx.progress)
            try:
                return await in_thread(functools.partial(work, fetcher), errand.stop)
            except asyncio.CancelledError:
                discard(self.folders.downloads, ctx.key)  # it may have ended in the same moment
                raise
            except (ServiceError, MemoryError):
                raise
            except Exception as exc:
                if errand.refused or not passes(exc) or tried == TRIES or pause(exc) is not None:
                    failure = as_service_error(exc, errand)
                    if failure.details.get("reason") in UNEXPLAINED:
                        log.warning("download_not_understood", host=urlsplit(url).hostname, exc_info=exc)
                    raise failure from exc
            size = await asyncio.to_thread(_size, ctx.workdir)
            tried = 1 if size >= loaded + NEW_TRIES_BYTES else tried
            loaded = max(loaded, size)
            await asyncio.sleep(self.settings.retry_seconds * 2 ** (tried - 1))
            tried += 1


def exact(said: float | None, measured: float | None) -> float | None:
    """The file's duration where the source's is a whole number within 1 s of it, since sources drop fractions."""
    if said and measured and (said != round(said) or abs(measured - said) > 1):
        return said
    return measured or said


def _size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
