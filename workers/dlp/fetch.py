"""One URL with yt-dlp: what is there, and its file.

    URL ─▶ extract ─▶ (a list: its first entry) ─▶ look at it ─▶ choose formats ─▶ download ─▶ join ─▶ one file
                                                 └ its first bytes, where the source does not say what it is

Everything here blocks and runs in a thread of its own, inside an `Errand`; the file stays in the task's folder.
"""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yt_dlp.utils import disposition_filename
from yt_dlp.utils._utils import _UnsafeExtensionError

from contract.errors import DownloadFailed, NoVideo, TooLarge, UnsupportedMedia
from media import ffmpeg
from media.container import Probe, probe
from workers.dlp import remote
from workers.dlp.confined import Confined, Log
from workers.dlp.failures import disk_full
from workers.dlp.sandbox import Errand, Sandbox

MAX_NESTED = 4
"""Most lists within lists, as a channel has them; the first entry of the innermost is taken."""
MAX_FRAGMENT_BYTES = 256 * 1024 * 1024
"""yt-dlp holds a segment of a stream in memory."""
TS_PACKET, TS_SYNC = 188, 0x47
"""A transport stream's packets have so many bytes, of which the first is this one (ISO 13818-1)."""
SPARE_BYTES = 64 * 1024 * 1024
"""Bytes of the disk that a download leaves free for the ledger and for others."""

PROTOCOLS = frozenset({"http", "https", "m3u8", "m3u8_native", "http_dash_segments", "http_dash_segments_generator"})
"""Protocols that yt-dlp downloads by itself, over http and https."""
NOT_ENDED = frozenset({"is_live", "is_upcoming", "post_live"})

_ENDINGS = {
    "mov": "mp4 m4a m4v mov m4b 3gp 3g2 f4v",
    "matroska": "mkv webm mka",
    "ogg": "ogg oga ogv opus",
    "mpegts": "ts m2ts mts",
    "mpeg": "mpg mpeg vob",
    "asf": "wmv wma asf",
    "aiff": "aiff aif",
}
"""FFmpeg's demuxers whose files end otherwise than in their names; the most usual ending first."""
_SOUND_ALONE = {"mov": ".m4a", "matroska": ".mka", "asf": ".wma"}
_WEBM = frozenset({"vp8", "vp9", "av1", "opus", "vorbis", "libvpx", "libvpx-vp9", "libdav1d", "libopus", "libvorbis"})
"""FFmpeg's names of the codecs, and of its decoders, that WebM may hold."""
_MEDIA_TYPE = re.compile(r"(audio|video)/|application/ogg", re.IGNORECASE)

Info = dict[str, Any]
Progress = Callable[..., None]
"""The type of `Context.progress`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one download. bytes: of all its files; seconds: of playing time; entries: of a list looked at."""

    bytes: int
    seconds: float
    entries: int
    height: int


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How the source is reached. cookies: a file of Netscape's format, read only; proxy: a URL; timeout: seconds."""

    timeout: float
    proxy: str | None = None
    cookies: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a URL leads to. info: yt-dlp's; source: the list that it is the first of; entries: those of the list."""

    info: Info
    source: Info | None
    entries: tuple[Info, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches one URL into one folder; a further try goes on where the last one stopped."""

    url: str
    folder: Path
    limits: Limits
    access: Access
    sandbox: Sandbox
    errand: Errand
    progress: Progress

    def look(self) -> Found:
        """What is there; downloads nothing. Raises: whatever yt-dlp does."""
        params = {**self._params(), "ignore_no_formats_error": True}
        with self.errand, Confined(params, self.sandbox) as ydl:
            return self._find(ydl)

    def fetch(self) -> tuple[Found, Path, Probe]:
        """What is there, its one file, and what the file says of itself. Raises: ServiceError, what yt-dlp does."""
        with self.errand, Confined(self._params(), self.sandbox) as ydl:
            found = self._find(ydl)
            self._check(found.info)
            meter = Meter(self.folder, self.limits, self.errand, self.progress)
            ydl.add_progress_hook(meter.hook)
            done = ydl.process_ie_result(found.info, download=True)
            parts = [Path(part["filepath"]) for part in done.get("requested_downloads") or () if part.get("filepath")]
            if not parts or not all(part.is_file() for part in parts):
                raise DownloadFailed("The source gave no file.", reason="failed")
            path = self._one_file(parts)
        try:
            about = probe(path)
        except UnsupportedMedia as exc:
            raise remote.no_media() from exc
        path = path.rename(path.with_suffix(ending(path.suffix, about)))
        if (about.duration or 0) > self.limits.seconds:
            raise self._too_long(about.duration or 0)
        return dataclasses.replace(found, info=done), path, about

    def _params(self) -> dict[str, Any]:
        cookies = self.access.cookies
        return {
            "logger": Log(),
            "quiet": True,
            "noprogress": True,
            "color": "never",
            "cachedir": False,
            "paths": {"home": str(self.folder)},
            "outtmpl": {"default": "%(autonumber)s.%(ext)s"},
            "format": choose,
            "format_sort": [f"res:{self.limits.height}", "vcodec:h264", "acodec:aac", "ext:mp4:m4a"],
            "noplaylist": True,
            "playlist_items": f"1:{self.limits.entries}",
            "extract_flat": "in_playlist",
            "socket_timeout": self.access.timeout,
            "retries": 0,  # the worker tries again, and only what may pass
            "fragment_retries": 0,
            "skip_unavailable_fragments": False,
            "proxy": self.access.proxy or "",  # empty: none, whatever the environment says
            "cookiefile": io.StringIO(cookies.read_text()) if cookies else None,  # yt-dlp would write to a file
            "external_downloader": "native",
            "hls_prefer_native": True,
            "ffmpeg_location": str(self.folder / "no-ffmpeg"),
            "fixup": "never",
            "updatetime": False,
        }

    def _find(self, ydl: Confined) -> Found:
        info = ydl.extract_info(self.url, download=False)
        source: Info | None = None
        entries: tuple[Info, ...] = ()
        for _ in range(MAX_NESTED):
            if not info or info.get("_type", "video") not in ("playlist", "multi_video"):
                break
            listed = tuple(entry for entry in info.get("entries") or () if entry)
            source, entries = info, listed
            first = listed[0] if listed else None
            flat = first is not None and str(first.get("_type")).startswith("url")
            info = ydl.process_ie_result(dict(first), download=False) if first and flat else first
        if not info or info.get("_type", "video") != "video":
            raise DownloadFailed("There is no video or audio at this URL that the server can find.", reason="empty")
        for one in (info, *(info.get("formats") or ())):
            if one.get("ext") not in _UnsafeExtensionError.ALLOWED_EXTENSIONS:
                one["ext"] = "unknown_video"  # yt-dlp would not write it; its content decides
        if info.get("direct"):
            self._recognize(ydl, info)
        return Found(info, source, entries)

    def _recognize(self, ydl: Confined, info: Info) -> None:
        """Complete what yt-dlp knows of a file that it took for media. Raises: UnsupportedMedia when it is none."""
        url = str(info["url"])
        headers = ydl.answered.get(url)
        if headers is None:
            return
        if name := disposition_filename(headers):
            info["title"] = info["fulltitle"] = Path(name).stem
        if _MEDIA_TYPE.match(headers.get("Content-Type") or ""):
            return
        about = remote.look_at(ydl, url, dict(info.get("http_headers") or {}))
        if about is not None and about.duration:
            info["duration"] = about.duration

    def _check(self, info: Info) -> None:
        """Refuse, before a byte of it is loaded, what is not to be downloaded."""
        formats = info.get("formats") or [info]
        if info.get("is_live") or info.get("live_status") in NOT_ENDED or any(one.get("is_live") for one in formats):
            raise DownloadFailed(
                "This is a live stream, or one to come; send the URL again when it has ended.", reason="live"
            )
        if (info.get("duration") or 0) > self.limits.seconds:
            raise self._too_long(info["duration"])
        if not any(map(_playable, formats)):
            if info.get("_has_drm") or any(one.get("has_drm") for one in formats):
                raise DownloadFailed("This is protected by DRM and cannot be downloaded.", reason="drm")
            raise NoVideo("There is neither video nor audio here that the server can download.", reason="no_formats")

    def _too_long(self, seconds: float) -> TooLarge:
        hours = self.limits.seconds / 3600
        return TooLarge(
            f"This runs for {seconds / 3600:.1f} hours; the server takes {hours:g}, which its operator sets in "
            "DLP_MAX_HOURS.",
            reason="duration",
        )

    def _one_file(self, parts: list[Path]) -> Path:
        """Picture and sound joined, where they came apart; a stream's segments in the container that they claim."""
        if len(parts) == 1 and not _is_transport_stream(parts[0]):
            return parts[0]
        suffixes = {part.suffix for part in parts}
        if suffixes <= {".mp4", ".m4a", ".m4v", ".mov"}:
            suffix = ".mp4"
        else:
            suffix = ".webm" if suffixes == {".webm"} else ".mkv"
        target = self.folder / f"joined{suffix}"
        ffmpeg.join(parts, target, self.errand.on_stop)
        return target


class Meter:
    """Follows a download: keeps it within its limits and tells how far it is."""

    def __init__(self, folder: Path, limits: Limits, errand: Errand, progress: Progress) -> None:
        self._folder = folder
        self._limits = limits
        self._errand = errand
        self._progress = progress
        self._loaded: dict[str, int] = {}
        self._fragment = (0, 0)

    def hook(self, status: Mapping[str, Any]) -> None:
        """yt-dlp's progress hook. Raises: Stopped, TooLarge, DiskFull."""
        self._errand.check()
        name, loaded = str(status.get("filename")), int(status.get("downloaded_bytes") or 0)
        self._loaded[name] = loaded
        before = sum(self._loaded.values()) - loaded
        total = status.get("total_bytes")
        self._check(before + max(loaded, total or 0), status.get("fragment_index"), loaded)
        if (total or loaded) - loaded > shutil.disk_usage(self._folder).free - SPARE_BYTES:
            raise disk_full()
        likely = total or status.get("total_bytes_estimate")
        fraction = min(1.0, loaded / likely) if likely else None
        eta = max(0.0, status["eta"]) if status.get("eta") is not None else None
        whole = before + int(likely) if likely else None
        self._progress(fraction, eta, bytes=before + loaded, total=whole, speed=status.get("speed"))

    def _check(self, size: int, fragment: int | None, loaded: int) -> None:
        if size > self._limits.bytes:
            raise TooLarge(
                f"This has more than {self._limits.bytes / 1e9:g} GB, which is what the server takes; its operator "
                "sets that in DLP_MAX_FILE_GB.",
                reason="size",
            )
        if fragment is not None:
            index, start = self._fragment
            if fragment != index:
                self._fragment = (fragment, loaded)
            elif loaded - start > MAX_FRAGMENT_BYTES:
                raise TooLarge("A segment of this stream is larger than any should be.", reason="size")


def choose(context: Mapping[str, Any]) -> Iterator[Info]:
    """What to download of `context["formats"]`, worst first: one with picture and sound, or the best of each.

    yt-dlp takes this where a format expression would stand.
    """
    formats = [one for one in context["formats"] if _playable(one)]
    pictures = [one for one in formats if one.get("vcodec") != "none"]
    sounds = [one for one in formats if one.get("vcodec") == "none"]
    if pictures:
        yield pictures[-1]
    if sounds and (not pictures or pictures[-1].get("acodec") == "none"):
        fitting = [one for one in sounds if pictures and _family(one) == _family(pictures[-1])]
        yield (fitting or sounds)[-1]


def _playable(one: Mapping[str, Any]) -> bool:
    has_something = one.get("vcodec") != "none" or one.get("acodec") != "none"
    protocol = one.get("protocol") or str(one.get("url", "")).partition(":")[0]
    return bool(has_something and protocol in PROTOCOLS and not one.get("has_drm") and one.get("ext") != "mhtml")


def _family(one: Mapping[str, Any]) -> bool:
    """Whether a format goes into mp4."""
    return one.get("ext") in ("mp4", "m4a", "m4v", "mov")


def _is_transport_stream(path: Path) -> bool:
    """Whether a file holds MPEG's transport stream, which yt-dlp calls mp4 when it comes in segments."""
    with path.open("rb") as file:
        start = file.read(TS_PACKET + 1)
    return len(start) > TS_PACKET and start[0] == start[TS_PACKET] == TS_SYNC


def ending(suffix: str, about: Probe) -> str:
    """The suffix of a file of this kind; its own, where that is one."""
    usual = [f".{one}" for one in _ENDINGS.get(about.demuxer, about.demuxer).split()]
    if suffix.lower() in usual:
        return suffix.lower()
    if about.demuxer == "matroska" and about.codecs <= _WEBM:
        return ".webm"
    return usual[0] if about.has_video else _SOUND_ALONE.get(about.demuxer, usual[0])
