"""yt-dlp with its doors closed: http and https by its urllib handler, no plugins, no other program, bounded pages.

The sandbox around the process is the real barrier. This module keeps yt-dlp from running into it, and says early and
clearly what is forbidden.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import structlog
import yt_dlp.globals
from yt_dlp import YoutubeDL
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.networking import Request
from yt_dlp.networking._urllib import HTTPHandler, ProxyHandler, RedirectHandler, UrllibRH
from yt_dlp.networking.exceptions import RequestError
from yt_dlp.utils import Popen

from contract.errors import TooLarge
from media import limits
from workers.dlp.sandbox import Refused, Sandbox

log = structlog.get_logger()

yt_dlp.globals.plugin_dirs.value = []
yt_dlp.globals.all_plugins_loaded.value = True


def _vod_duration(self: InfoExtractor, playlist: str, video_id: str) -> float | None:
    """Seconds that the segments of a whole HLS playlist claim together; yt-dlp's own drops their fraction."""
    if "#EXT-X-ENDLIST" not in playlist:
        return None
    lengths = re.findall(r"^#EXTINF:\s*(\d+(?:\.\d+)?)", playlist, re.MULTILINE)
    return round(sum(map(float, lengths)), 6) or None


InfoExtractor._parse_m3u8_vod_duration = _vod_duration

MAX_PAGE_BYTES = 32 * 1024 * 1024
"""Most bytes of a page, a playlist or an API's answer that are read into memory, packed or unpacked."""
_ANSWERS = 32


_DENO = {"--ext=js", "--no-code-cache", "--no-prompt", "--no-remote", "--no-lock", "--node-modules-dir=none"}
_DENO |= {"--no-config", "--no-npm", "--cached-only"}


_DENO_SECONDS = 60.0
"""Of a processor's time; a challenge takes one or two, and yt-dlp would wait for an endless one for ever."""
_DENO_BYTES = 64 << 20
"""Of a file that it writes; of its own, for a while."""
_start = Popen.__init__


def _start_bound(self: Popen, *args: Any, **options: Any) -> None:
    _start(self, *args, **options)
    limits.bound(self.pid, _DENO_SECONDS, _DENO_BYTES)


Popen.__init__ = _start_bound


def is_confined_deno(words: Sequence[str]) -> bool:
    """Whether a command line runs a script with Deno as yt-dlp does for YouTube: with no permission at all."""
    if Path(words[0]).stem != "deno":
        return False
    return words[1:] == ["--version"] or (
        words[1:2] == ["run"] and words[-1] == "-" and "--no-prompt" in words and _DENO.issuperset(words[2:-1])
    )


class Log:
    """Takes yt-dlp's lines into the debug log, for whoever looks for a fault."""

    def debug(self, text: str) -> None:
        log.debug("yt_dlp", text=text)

    info = warning = error = debug


class ConfinedRH(UrllibRH):
    """Requests by urllib, and http and https only."""

    _SUPPORTED_URL_SCHEMES = ("http", "https")
    sandbox: Sandbox

    def _create_instance(self, proxies: Any, cookiejar: Any, legacy_ssl_support: Any = None) -> Any:
        opener = urllib.request.OpenerDirector()
        context = self._make_sslcontext(legacy_ssl_support=legacy_ssl_support)
        for handler in (
            ProxyHandler(proxies),
            _Pages(context=context, source_address=self.source_address),
            urllib.request.HTTPCookieProcessor(cookiejar),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self.sandbox),
        ):
            opener.add_handler(handler)
        opener.addheaders = []
        return opener


class Confined(YoutubeDL):
    """One download's yt-dlp. Its `urlopen` is what every extractor and downloader of it asks."""

    def __init__(self, params: dict[str, Any], sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.answered: dict[str, Any] = {}
        """The headers of the latest answers, by their URLs."""
        super().__init__(params)

    def build_request_director(self, handlers: Iterable[Any], preferences: Any = None) -> Any:
        bound = type("ConfinedRH", (ConfinedRH,), {"sandbox": self._sandbox})
        return super().build_request_director([bound])

    def urlopen(self, req: Any) -> Any:
        url = req if isinstance(req, str) else req.url if isinstance(req, Request) else req.full_url
        if url.startswith("data:"):  # some extractors try it; it leads nowhere
            raise RequestError("data: URLs are not opened")
        try:
            self._sandbox.check_url(url)
        except Refused as exc:
            raise RequestError(str(exc), cause=exc) from exc
        response = super().urlopen(req)
        self.answered[response.url] = response.headers
        if len(self.answered) > _ANSWERS:
            del self.answered[next(iter(self.answered))]
        return response


class _Redirects(RedirectHandler):
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = headers.get("location") or headers.get("uri")
        if target:
            self._sandbox.check_url(urljoin(req.full_url, target))
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Pages(HTTPHandler):
    """Bounds an answer that is read whole, also once it is unpacked. Downloads read piece by piece, unbounded."""

    def http_response(self, req: Any, resp: Any) -> Any:
        if isinstance(resp, http.client.HTTPResponse):
            read = resp.read

            def bounded(amt: int | None = None) -> bytes:
                if amt is not None:
                    return read(amt)
                length = resp.length
                return _checked(read() if length is not None and length <= MAX_PAGE_BYTES else read(MAX_PAGE_BYTES + 1))

            resp.read = bounded  # type: ignore[method-assign]
        return super().http_response(req, resp)

    https_response = http_response

    @staticmethod
    def gz(data: bytes) -> bytes:
        return _unpacked(data, zlib.MAX_WBITS | 16)

    @staticmethod
    def deflate(data: bytes) -> bytes:
        try:
            return _unpacked(data, -zlib.MAX_WBITS)
        except zlib.error:
            return _unpacked(data, zlib.MAX_WBITS)


def _unpacked(data: bytes, wbits: int) -> bytes:
    return _checked(zlib.decompressobj(wbits).decompress(data, MAX_PAGE_BYTES + 1)) if data else data


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_PAGE_BYTES:
        raise TooLarge(f"A page of this source has more than {MAX_PAGE_BYTES // 2**20} MiB; that is no video's page.")
    return data
