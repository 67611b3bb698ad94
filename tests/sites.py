"""A site to download from, on this machine: films, pages, playlists, and everything that a bad source does."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.recordings import EXAMPLE, beep, write

TS_PACKET = 188
MIB = 1 << 20
PATIENCE = 30.0


def boxed(clip: bytes, size: int) -> bytes:
    """An mp4 of that size: the clip, and a box that every player passes over."""
    rest = size - len(clip)
    return clip + rest.to_bytes(4, "big") + b"free" + bytes(rest - 8)


def late_index(clip: bytes, size: int) -> bytes:
    """An mp4 of that size whose index is at its end, behind what every player passes over."""
    start, end = clip.index(b"moov") - 4, len(clip)
    assert int.from_bytes(clip[start : start + 4], "big") == end - start, "the index comes last"
    return boxed(clip[:start], size - (end - start)) + clip[start:]


INNER = (
    "/redirect?to={other}/clip.mp4",
    "/redirect?to=http://[::1]:{port}/clip.mp4",
    "/redirect?to=http://0x7f000001:{port}/clip.mp4",
    "/redirect?to=http://2130706433:{port}/clip.mp4",
    "/redirect?to=file:///etc/passwd",
    "/redirect?to=ftp://127.0.0.1/clip.mp4",
    "/turning?to={other}/clip.mp4",
    "/embed.html?to={other}/clip.mp4",
    "/embed.html?to=http://169.254.169.254/latest/meta-data.mp4",
    "/leading.m3u8?to={other}/segment-0.ts",
    "/leading.m3u8?to=/redirect?to={other}/segment-0.ts",
    "/leading.m3u8?to=file:///etc/hostname",
)
"""Paths of a site that lead elsewhere: to another one on this machine, and to what no download may have."""


class Site:
    """Serves the routes below on 127.0.0.1, and as a forward proxy for any host. `seen` counts the requested paths.

    A route is a path's first word. `gate` lets `/gated…` go on; `half_way` is set when one waits there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.clip = write(folder / "clip.mp4", beep(2.0, at=1.0), "aac", video=2.0).read_bytes()
        self.sound = write(folder / "sound.m4a", beep(2.0, at=1.0), "aac").read_bytes()
        self.picture = write(folder / "picture.mp4", None, video=2.0).read_bytes()
        self.stream = write(folder / "clip.ts", beep(2.0, at=1.0), "aac", video=2.0).read_bytes()
        self.late = late_index(self.clip, 40 * MIB)
        self.bomb = gzip.compress(bytes(40 * MIB), 1)
        self.seen: Counter[str] = Counter()
        self.gate = threading.Event()
        self.half_way = threading.Semaphore(0)
        self._closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    site.serve(self)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:
                """Tests read `seen`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.seen[path] += 1
        word = path.rpartition("/")[2].partition(".")[0].partition("-")[0]
        route: Callable[[BaseHTTPRequestHandler, str], None] = getattr(self, f"_{word}", self._missing)
        route(request, path)

    def _send(
        self, request: BaseHTTPRequestHandler, body: bytes, kind: str, length: int | None = -1, **headers: str
    ) -> None:
        """length: what Content-Length says; None: nothing; -1: the truth."""
        request.send_response(200)
        request.send_header("Content-Type", kind)
        if length is not None:
            request.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    # Films.

    def _clip(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "video/mp4")

    _trailer_480p = _clip

    def _sound(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.sound, "audio/mp4")

    def _picture(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.picture, "video/mp4")

    def _unsized(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "video/mp4", length=None)

    def _big(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, boxed(self.clip, 8 * MIB), "video/mp4")

    def _endless(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "video/mp4", length=None)
        while not self._closing.is_set():
            request.wfile.write(bytes(MIB))

    def _huge(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "video/mp4", length=10**13)
        self._closing.wait(PATIENCE)

    def _slow(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, b"", "video/mp4", length=len(self.clip))
        piece = len(self.clip) // 8 + 1
        for start in range(0, len(self.clip), piece):
            self._closing.wait(0.1)
            request.wfile.write(self.clip[start : start + piece])

    def _stalled(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip[:1000], "video/mp4", length=len(self.clip))
        self._closing.wait(PATIENCE)

    def _gated(self, request: BaseHTTPRequestHandler, path: str) -> None:
        film = boxed(self.clip, MIB)
        half = len(film) // 2
        self._send(request, film[:half], "video/mp4", length=len(film))
        if request.command == "GET":
            request.wfile.flush()
            self.half_way.release()
            self.gate.wait(PATIENCE)
            request.wfile.write(film[half:])

    def _flaky(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """Cut short, then out of order, then there."""
        if self.seen[path] < 2:
            self._send(request, self.clip[:1000], "video/mp4", length=len(self.clip))
        elif self.seen[path] < 4:
            request.send_error(503)
        else:
            self._clip(request, path)

    def _down(self, request: BaseHTTPRequestHandler, path: str) -> None:
        request.send_error(503)

    def _busy(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """Wants to be left alone for a second, and then is there."""
        if self.seen[path] > 1:
            self._clip(request, path)
            return
        request.send_response(429)
        request.send_header("Retry-After", "1")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _locked(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """For whoever has the cookie."""
        if "pass=yes" in request.headers.get("Cookie", ""):
            self._clip(request, path)
        else:
            request.send_error(403)

    # Films that do not say what they are, and other things.

    def _bare(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "application/octet-stream")

    def _plain(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "text/plain; charset=utf-8")

    def _attached(self, request: BaseHTTPRequestHandler, path: str) -> None:
        given = "attachment; filename=\"plain.bin\"; filename*=UTF-8''Ein%20Gespr%C3%A4ch.mp4"
        self._send(request, self.clip, "application/octet-stream", Content_Disposition=given)

    def _program(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.clip, "video/mp4", Content_Disposition='attachment; filename="setup.exe"')

    def _track(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.sound, "application/octet-stream")

    def _letter(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, b"Dear all, there is no film.\n" * 100, "text/plain")

    def _photo(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, (EXAMPLE.parent / "shapes.png").read_bytes(), "image/png")

    def _archive(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, b"PK\3\4" + bytes(range(256)) * 400, "application/zip")

    def _blank(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, b"", "application/octet-stream")

    def _ranged(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """A film of 40 MiB whose index is at its end, from a source that gives any part of it."""
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        request.send_response(206)
        request.send_header("Content-Type", "binary/octet-stream")
        request.send_header("Content-Range", f"bytes {start}-{len(self.late) - 1}/{len(self.late)}")
        request.send_header("Content-Length", str(len(self.late) - start))
        request.end_headers()
        request.wfile.write(self.late[start:])

    def _turning(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """A film to whoever asks for all of it; whoever looks at its beginning is led where the query says."""
        if request.headers.get("Range"):
            self._redirect(request, path)
        else:
            self._bare(request, path)

    def _unranged(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.late, "binary/octet-stream")

    # Playlists.

    def _hls(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._playlist(request, ["segment-0.ts", "segment-1.ts"])

    def _fraction(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """1.75 s of a film, as it says."""
        self._playlist(request, ["segment-0.ts", "segment-1.ts"], seconds=0.875)

    def _variants(self, request: BaseHTTPRequestHandler, path: str) -> None:
        master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9000,RESOLUTION=64x64\nfraction.m3u8\n"
        self._send(request, master.encode(), "application/vnd.apple.mpegurl")

    def _dash(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """Picture and sound apart."""
        kinds = (("video", "mp4", "mp4v.20.9", "/picture.mp4"), ("audio", "mp4", "mp4a.40.2", "/sound.m4a"))
        sets = "".join(
            f'<AdaptationSet mimeType="{kind}/{ext}"><Representation id="{kind}" codecs="{codec}" bandwidth="9000">'
            f"<BaseURL>{where}</BaseURL></Representation></AdaptationSet>"
            for kind, ext, codec, where in kinds
        )
        manifest = f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>{sets}</Period></MPD>'
        self._send(request, manifest.encode(), "application/dash+xml")

    def _live(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._playlist(request, ["segment-0.ts", "segment-1.ts"], ended=False)

    def _drm(self, request: BaseHTTPRequestHandler, path: str) -> None:
        key = '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://key",KEYFORMAT="com.apple.streamingkeydelivery"'
        self._playlist(request, [key, "segment-0.ts"])

    def _fat(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._playlist(request, [f"lump-{number}.ts" for number in range(10)])

    def _leading(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """A playlist with the segment that the query names."""
        self._playlist(request, parse_qs(urlsplit(request.path).query)["to"])

    def _disguised(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """A playlist that calls itself a film."""
        self._send(request, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "video/mp4")

    def _segment(self, request: BaseHTTPRequestHandler, path: str) -> None:
        half = len(self.stream) // TS_PACKET // 2 * TS_PACKET
        self._send(request, self.stream[:half] if "0" in path else self.stream[half:], "video/mp2t")

    def _lump(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._send(request, self.stream + bytes(MIB), "video/mp2t")

    def _playlist(
        self, request: BaseHTTPRequestHandler, segments: list[str], ended: bool = True, seconds: float = 1.0
    ) -> None:
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2"]
        for segment in segments:
            lines += [f"#EXTINF:{seconds},", segment]
        lines += ["#EXT-X-ENDLIST"] * ended
        self._send(request, "\n".join(lines).encode(), "application/vnd.apple.mpegurl")

    # Pages.

    def _page(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._html(request, '<video src="/clip.mp4"></video>')

    def _several(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._html(request, '<video src="/clip.mp4"></video><video src="/sound.m4a"></video>')

    def _embed(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """A page with the video that the query names."""
        self._html(request, f'<video src="{parse_qs(urlsplit(request.path).query)["to"][0]}"></video>')

    def _empty(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._html(request, "Nothing to see.")

    def _bomb(self, request: BaseHTTPRequestHandler, path: str) -> None:
        """A page of 40 MiB in 200 kB."""
        self._send(request, self.bomb, "text/html", Content_Encoding="gzip")

    def _html(self, request: BaseHTTPRequestHandler, body: str) -> None:
        page = f"<html><head><title>A page</title></head><body>{body}</body></html>"
        self._send(request, page.encode(), "text/html")

    # Ways.

    def _redirect(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._see(request, parse_qs(urlsplit(request.path).query)["to"][0])

    def _loop(self, request: BaseHTTPRequestHandler, path: str) -> None:
        self._see(request, "/loop-a.mp4" if path == "/loop-b.mp4" else "/loop-b.mp4")

    def _see(self, request: BaseHTTPRequestHandler, where: str) -> None:
        request.send_response(302)
        request.send_header("Location", where)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _missing(self, request: BaseHTTPRequestHandler, path: str) -> None:
        request.send_error(404)


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    with Site(folder) as served:
        yield served
