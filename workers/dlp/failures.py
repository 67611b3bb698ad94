"""What yt-dlp's exceptions mean to the person who asked, and which of them pass by themselves.

yt-dlp wraps exceptions several times, each layer in another attribute; all of them are looked at, the outermost first.
"""

from __future__ import annotations

import errno
import http.client
import math
import re
import socket
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, ProxyError, RequestError, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    DownloadError,
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    UserNotLive,
)

from contract.errors import DiskFull, DownloadFailed, ServiceError, UrlForbidden
from workers.dlp.sandbox import Errand

PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNEXPLAINED = frozenset({"failed", "unreadable"})
"""Reasons that a reader of the log should look into: a site has changed, or the fault is ours."""
_GAVE_UP = re.compile(r"Got error: (.*)", re.DOTALL)
"""The words in which yt-dlp's downloaders report a failure that may pass; they drop the exception."""
_HTTP_ERROR = re.compile(r"HTTP Error (\d+)")
_SAID = 300
"""An answer repeats at most so many characters of a site's own words."""
LONGEST_PAUSE = 24 * 3600
"""A source is not waited for when it wants to be left alone for more seconds."""

_BY_STATUS = {
    401: ("login", "The source wants a login (HTTP 401); the server's operator can give it cookies with DLP_COOKIES."),
    403: ("refused", "The source refuses to give this to the server (HTTP 403); it may want a login (DLP_COOKIES)."),
    404: ("not_found", "There is nothing at this URL (HTTP 404); check it."),
    410: ("not_found", "What was at this URL has been taken away (HTTP 410)."),
    429: ("busy", "The source has had too many requests from this server (HTTP 429); try again later."),
    451: ("geo", "The source may not show this where the server stands (HTTP 451); DLP_PROXY can help."),
}
_BY_WORDS = tuple(
    (re.compile(pattern, re.IGNORECASE), reason, sentence)
    for pattern, reason, sentence in (
        (r"\bDRM\b", "drm", "This is protected by DRM and cannot be downloaded."),
        (
            r"confirm your age|age.restricted|inappropriate for some",
            "age",
            "The source shows this to grown-ups with a login only; the operator can give the server one with "
            "DLP_COOKIES.",
        ),
        (
            r"sign in|log ?in|registered users|account|private video|members.only|cookies|subscri(be|ption)|premium",
            "login",
            "The source shows this with a login only; the server's operator can give it cookies with DLP_COOKIES.",
        ),
        (
            r"live event|premieres in|is offline|not currently live",
            "live",
            "This is a live stream, or one to come; send the URL again when it has ended.",
        ),
        (
            r"your (country|location|region)|geo.?(restrict|block)",
            "geo",
            "The source does not show this where the server stands; its operator can set DLP_PROXY.",
        ),
    )
)


def forbidden() -> UrlForbidden:
    return UrlForbidden(
        "This URL is, or leads to, one that the server does not fetch from: it takes http and https only, and public "
        "addresses only. Its operator can open private networks with DLP_ALLOW_PRIVATE."
    )


def passes(exc: BaseException) -> bool:
    """Whether the same request may well succeed in a moment."""
    for layer in _layers(exc):
        status = _status(layer)
        if status is not None:
            return status in PASSING_STATUS
        if isinstance(layer, (CertificateVerifyError, ServiceError)):
            return False
        if isinstance(layer, socket.gaierror):
            return layer.errno not in _NO_SUCH_NAME
        if isinstance(layer, OSError) and layer.errno in _FULL:
            return False
    return any(isinstance(layer, _LOST) or _gave_up(layer) for layer in _layers(exc))


def as_service_error(exc: BaseException, errand: Errand) -> ServiceError:
    """The answer to whatever a download raised. Where the source said when to come again, its details do too."""
    layers = list(_layers(exc))
    for layer in layers:
        if isinstance(layer, ServiceError):
            return layer
    if errand.refused:
        return forbidden()
    if any(isinstance(layer, OSError) and layer.errno in _FULL for layer in layers):
        return disk_full()
    reason, sentence = (
        _said_by_site(layers)
        or _said_by_network(layers)
        or _quoted(layers)
        or ("failed", "The download failed; the server's log has the reason.")
    )
    seconds = pause(exc)
    return DownloadFailed(sentence, reason=reason, **({} if seconds is None else {"retry_after": seconds}))


def pause(exc: BaseException) -> int | None:
    """The seconds after which the source wants to be asked again; None where it does not say so, or is not to be."""
    if not passes(exc):
        return None
    said = (_retry_after(layer.response.headers) for layer in _layers(exc) if isinstance(layer, HTTPError))
    return next((seconds for seconds in said if seconds is not None), None)


def _retry_after(headers: Mapping[str, str]) -> int | None:
    """Seconds, at most `LONGEST_PAUSE`; the header has them, or a date. RFC 9110, section 10.2.3."""
    said = (headers.get("Retry-After") or "").strip()
    if said.isdecimal() and len(said) < 10:
        return min(int(said), LONGEST_PAUSE)
    try:
        seconds = parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(0, math.ceil(seconds)), LONGEST_PAUSE)


def disk_full() -> DiskFull:
    return DiskFull("The server's disk is too full for this download; free space under DATA_DIR and PATH_VIDEO.")


def _said_by_site(layers: list[BaseException]) -> tuple[str, str] | None:
    """The answer to an extractor's complaint: about a login, a country, or a page that it does not know."""
    for layer in layers:
        if isinstance(layer, GeoRestrictedError):
            return "geo", "The source does not show this where the server stands; its operator can set DLP_PROXY."
        if isinstance(layer, UserNotLive):
            return "live", "Nobody is live here; send the URL of a recording."
        if isinstance(layer, UnsupportedError):
            return "unsupported", "There is no video or audio at this URL that the server can find."
    for layer in layers:
        if isinstance(layer, ExtractorError) and layer.expected and not isinstance(layer.cause, RequestError):
            for words, reason, sentence in _BY_WORDS:
                if words.search(str(layer.orig_msg or "")):
                    return reason, sentence
    return None


def _said_by_network(layers: list[BaseException]) -> tuple[str, str] | None:
    for layer in layers:
        if isinstance(layer, HTTPError) and layer.redirect_loop:
            return "redirects", "This URL is redirected in a circle."
        status = _status(layer)
        if status is not None:
            usual = ("http", f"The source answered with an error (HTTP {status}); try again later.")
            return _BY_STATUS.get(status, usual)
        if isinstance(layer, CertificateVerifyError):
            return "certificate", "The source's certificate is not valid, so it cannot be trusted to be what it says."
        if isinstance(layer, socket.gaierror):
            if layer.errno in _NO_SUCH_NAME:
                return "no_such_host", "There is no host of this URL's name; check it."
            return "resolver", "The name of this URL's host could not be looked up; try again later."
        if isinstance(layer, ProxyError):
            return "proxy", "The server's proxy did not let this through; its operator set it in DLP_PROXY."
        if isinstance(layer, TimeoutError) or "timed out" in _gave_up(layer):
            return "timeout", "The source did not answer in time; try again later."
        if isinstance(layer, ConnectionRefusedError):
            return "no_connection", "The source does not accept connections; check the URL or try again later."
    if any(isinstance(layer, _LOST) or _gave_up(layer) for layer in layers):
        return "connection_lost", "The connection to the source was lost each time; try again later."
    return None


def _quoted(layers: list[BaseException]) -> tuple[str, str] | None:
    """An extractor's own words, where they are meant for people."""
    for layer in layers:
        if isinstance(layer, ExtractorError):
            said = re.sub(r"\s+", " ", str(layer.orig_msg or ""))[:_SAID]
            if layer.expected and said:
                return "site", f"The source says: {said}"
            return "unreadable", "The page of this URL could not be understood; the site may have changed."
    return None


_LOST = (TransportError, ContentTooShortError, http.client.IncompleteRead, TimeoutError)


def _gave_up(layer: BaseException) -> str:
    """The reason for which a downloader gave up; empty for any other exception."""
    found = _GAVE_UP.search(str(layer)) if isinstance(layer, DownloadError) else None
    return found[1] if found else ""


def _status(layer: BaseException) -> int | None:
    """The HTTP status that an exception reports."""
    if isinstance(layer, HTTPError):
        return int(layer.status)
    found = _HTTP_ERROR.search(_gave_up(layer))
    return int(found[1]) if found else None


def _layers(exc: BaseException) -> Iterator[BaseException]:
    """An exception, and every exception inside it, the outermost first."""
    pending, seen = [exc], set[int]()
    while pending:
        layer = pending.pop(0)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        info = getattr(layer, "exc_info", None)
        within = (info[1] if isinstance(info, tuple) and len(info) > 1 else None, getattr(layer, "cause", None))
        pending += [part for part in (*within, layer.__cause__, layer.__context__) if isinstance(part, BaseException)]
        pending += getattr(layer, "unexpected_errors", ())
        if isinstance(reason := getattr(layer, "reason", None), BaseException):
            pending.append(reason)
