"""Downloads through a real server, from a site of our own; and what their pieces do alone."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError

from client import Client, Partial
from contract.errors import DiskFull, InvalidInput, TooLarge, UrlForbidden
from media.container import Probe
from tests.peers import Peer
from tests.servers import Server
from tests.sites import MIB, PATIENCE, Site
from workers.dlp.failures import LONGEST_PAUSE, as_service_error, passes
from workers.dlp.fetch import Limits, Meter, choose, ending
from workers.dlp.outcome import discard, keep, safe
from workers.dlp.sandbox import Errand
from workers.dlp.worker import checked_url, exact

CAP_BYTES = 4_000_000
FAST = {"DLP_SOCKET_TIMEOUT": "0.5", "DLP_RETRY_SECONDS": "0.02", "DLP_MAX_FILE_GB": str(CAP_BYTES / 1e9)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as served:
        yield served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may download from this machine, and knows a cookie."""
    folder = tmp_path_factory.mktemp("open")
    cookies = folder / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tpass\tyes\n")
    with Server(folder, DLP_ALLOW_PRIVATE="1", DLP_COOKIES=str(cookies), **FAST) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server that takes larger files."""
    allowed = {**FAST, "DLP_ALLOW_PRIVATE": "1", "DLP_MAX_FILE_GB": "1"}
    with Server(tmp_path_factory.mktemp("roomy"), **allowed) as served, Client(served.url) as connected:
        yield connected


def ask(client: Client, *urls: Any, **options: Any) -> list[dict[str, Any]]:
    answer = client.submit("dlp", urls=list(urls), **options).result()
    assert answer["status"] == "success"
    data: list[dict[str, Any]] = answer["data"]
    return data


def made(server: Server) -> list[Path]:
    return sorted((server.folder / "path_video").glob("*"))


def left_over(server: Server) -> list[Path]:
    """Temporary files of any task."""
    return [path for path in (server.folder / "data_dir" / "work").rglob("*") if path.is_file()]


# What is answered.


def test_a_film_is_downloaded_and_described(site: Site, server: Server, client: Client) -> None:
    [item] = ask(client, site.url("/clip.mp4"))
    path = Path(item.pop("file"))
    assert path.parent == server.folder / "path_video"
    assert path.read_bytes() == site.clip
    assert item == {
        **{"uploader": None, "duration": 2.0, "view_count": None, "like_count": None},
        **{"fulltitle": "clip", "description": None, "url": site.url("/clip.mp4")},
    }


async def test_progress_tells_how_much_has_come_and_how_fast(site: Site, server: Server) -> None:
    async with Peer(server.url) as peer:
        job = await peer.ask({"type": "dlp", "urls": [site.url("/slow.mp4")], "id": "mine"})
        hint = await peer.wait(lambda event, body: event == "progress" and 0 < (body["fraction"] or 0) < 1)
        await peer.final(job["job_id"])
    assert (hint["id"], hint["stage"], hint["item"]) == ("mine", "dlp", 0)
    assert 0 < hint["bytes"] < hint["total"] == len(site.clip)
    assert hint["speed"] > 0
    assert hint["eta"] >= 0


def test_info_downloads_nothing(site: Site, server: Server, client: Client) -> None:
    before = made(server)
    [item] = ask(client, site.url("/page.html"), data_type="info")
    assert (item["file"], item["fulltitle"]) == (None, "A page (1)")
    assert made(server) == before
    assert not left_over(server)


def test_items_stand_in_order_and_errors_in_their_place(site: Site, client: Client) -> None:
    urls = [site.url("/slow.mp4"), "file:///etc/passwd", site.url("/404.mp4"), "nonsense", 7, site.url("/sound.m4a")]
    job = client.submit("dlp", urls=urls)
    partials = {event.index: event.data for event in job.events() if isinstance(event, Partial)}
    data = job.result()["data"]
    assert [item["url"] for item in data] == urls
    codes = [None, "URL_FORBIDDEN", "DOWNLOAD_FAILED", "INVALID_INPUT", "INVALID_INPUT", None]
    assert [item.get("error_code") for item in data] == codes
    assert partials == dict(enumerate(data))


def test_a_list_is_its_first_entry_and_names_the_others(site: Site, client: Client) -> None:
    [item] = ask(client, site.url("/several.html"))
    assert Path(item["file"]).read_bytes() == site.clip
    assert item["playlist"] == {"title": "A page", "count": 2}
    assert [entry["url"] for entry in item["entries"]] == [site.url("/clip.mp4"), site.url("/sound.m4a")]


@pytest.mark.parametrize("path", ["/hls.m3u8", "/dash.mpd"])
def test_what_comes_in_pieces_is_one_mp4(site: Site, client: Client, path: str) -> None:
    [item] = ask(client, site.url(path))
    with av.open(item["file"]) as film:
        assert film.format.name.startswith("mov,mp4")
        assert {stream.type for stream in film.streams} == {"video", "audio"}
        assert (film.duration or 0) / av.time_base == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("path", ["/redirect?to=/clip.mp4", "/unsized.mp4", "/page.html", "/locked.mp4"])
def test_other_ways_lead_to_the_same_file(site: Site, client: Client, path: str) -> None:
    [item] = ask(client, site.url(path))
    assert Path(item["file"]).read_bytes() == site.clip


@pytest.mark.parametrize(
    ("path", "name", "suffix"),
    [
        *(("/bare", "bare", ".mp4"), ("/plain", "plain", ".mp4"), ("/bare.php", "bare", ".mp4")),
        *(("/attached", "Ein Gespräch", ".mp4"), ("/program", "setup", ".mp4")),
        *(("/track", "track", ".m4a"), ("/track.mp3", "track", ".m4a"), ("/bare.mov", "bare", ".mov")),
        *(
            ("/ranged", "ranged", ".mp4"),
            ("/unranged", "unranged", ".mp4"),
            ("/embed.html?to=/bare", "A page (1)", ".mp4"),
        ),
    ],
)
def test_a_file_is_what_it_holds_whatever_its_source_calls_it(
    roomy: Client, site: Site, path: str, name: str, suffix: str
) -> None:
    """octet-stream, text/plain, a name that is wrong or none, an attachment's own name."""
    [item] = ask(roomy, site.url(path))
    assert (item["fulltitle"], Path(item["file"]).suffix, item["duration"]) == (name, suffix, 2.0)
    content = {"track": site.sound, "ranged": site.late, "unranged": site.late}.get(name, site.clip)
    assert Path(item["file"]).read_bytes() == content


@pytest.mark.parametrize(
    ("path", "found"),
    [
        *(("/bare", ("bare", 2.0)), ("/attached", ("Ein Gespräch", 2.0)), ("/ranged", ("ranged", 2.0))),
        *(
            ("/unranged", ("unranged", None)),
            ("/letter", ("UNSUPPORTED_MEDIA", None)),
            ("/blank", ("UNSUPPORTED_MEDIA", None)),
        ),
    ],
)
def test_info_tells_by_content_too(site: Site, client: Client, path: str, found: tuple[str, float | None]) -> None:
    """From its first bytes, and its last ones where the source gives them; where it does not, nobody knows yet."""
    [item] = ask(client, site.url(path), data_type="info")
    assert (item.get("fulltitle") or item["error_code"], item.get("duration")) == found


def test_what_is_no_recording_is_not_loaded(site: Site, client: Client) -> None:
    """It is asked for what it is, and for its beginning."""
    site.seen.clear()
    [item] = ask(client, site.url("/archive"))
    assert item["message"] == "What is at this URL is neither video nor audio."
    assert site.seen["/archive"] == 2


@pytest.mark.parametrize("data_type", ["info", "file"])
@pytest.mark.parametrize("path", ["/fraction.m3u8", "/variants.m3u8"])
def test_the_duration_of_segments_keeps_its_fraction(site: Site, client: Client, path: str, data_type: str) -> None:
    [item] = ask(client, site.url(path), data_type=data_type)
    assert item["duration"] == 1.75


@pytest.mark.parametrize(
    ("said", "measured", "told"),
    [(33, 33.07, 33.07), (33.07, 33.1, 33.07), (33, 20.5, 33), (None, 2.5, 2.5), (7, None, 7), (None, None, None)],
)
def test_a_source_that_rounds_is_made_exact_by_the_file(said: Any, measured: Any, told: Any) -> None:
    assert exact(said, measured) == told


@pytest.mark.parametrize(
    ("suffix", "probe", "told"),
    [
        (".MP4", ("mov", True, {"h264"}), ".mp4"),
        (".unknown_video", ("mov", False, {"aac"}), ".m4a"),
        (".unknown_video", ("matroska", True, {"vp9", "opus"}), ".webm"),
        (".unknown_video", ("matroska", True, {"h264", "aac"}), ".mkv"),
        (".unknown_video", ("matroska", False, {"flac"}), ".mka"),
        (".webm", ("matroska", True, {"h264"}), ".webm"),
        (".ogv", ("ogg", True, {"theora"}), ".ogv"),
        (".mp4", ("ogg", False, {"vorbis"}), ".ogg"),
        (".bin", ("mp3", False, {"mp3float"}), ".mp3"),
        (".bin", ("mpeg", True, {"mpeg2video"}), ".mpg"),
        (".bin", ("asf", False, {"wmav2"}), ".wma"),
    ],
)
def test_a_suffix_says_what_the_file_is(suffix: str, probe: tuple[str, bool, set[str]], told: str) -> None:
    demuxer, has_video, codecs = probe
    assert ending(suffix, Probe(1.0, True, has_video, demuxer, frozenset(codecs))) == told


def test_a_cookies_file_is_read_only(server: Server) -> None:
    assert (server.folder / "cookies.txt").read_text().endswith("pass\tyes\n")


def test_the_same_url_twice_at_once_is_two_files(site: Site, client: Client) -> None:
    site.gate.clear()
    job = client.submit("dlp", urls=[site.url("/gated.mp4")] * 2)
    assert all(site.half_way.acquire(timeout=PATIENCE) for _ in range(4))  # each is looked at, then loaded
    site.gate.set()
    files = [item["file"] for item in job.result()["data"]]
    assert len(set(files)) == 2
    assert {Path(file).stat().st_size for file in files} == {MIB}


# Bad sources.


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/404.mp4", ("DOWNLOAD_FAILED", "not_found")),
        ("/loop-a.mp4", ("DOWNLOAD_FAILED", "redirects")),
        ("/empty.html", ("DOWNLOAD_FAILED", "unsupported")),
        ("/live.m3u8", ("DOWNLOAD_FAILED", "live")),
        ("/drm.m3u8", ("DOWNLOAD_FAILED", "drm")),
        ("/leading.m3u8?to=/404.ts", ("DOWNLOAD_FAILED", "not_found")),
        ("/redirect?to=ftp://127.0.0.1/clip.mp4", ("URL_FORBIDDEN", None)),
        ("/redirect?to=file:///etc/passwd", ("URL_FORBIDDEN", None)),
        ("/leading.m3u8?to=file:///etc/hostname", ("URL_FORBIDDEN", None)),
        ("/disguised.mp4", ("UNSUPPORTED_MEDIA", "no_media")),
        ("/letter.mp4", ("UNSUPPORTED_MEDIA", "no_media")),
        ("/photo", ("UNSUPPORTED_MEDIA", "no_media")),
        ("/archive", ("UNSUPPORTED_MEDIA", "no_media")),
        ("/blank", ("UNSUPPORTED_MEDIA", "empty")),
        ("/big.mp4", ("TOO_LARGE", "size")),
        ("/endless.mp4", ("TOO_LARGE", "size")),
        ("/huge.mp4", ("TOO_LARGE", "size")),
        ("/fat.m3u8", ("TOO_LARGE", "size")),
        ("/bomb.html", ("TOO_LARGE", None)),
    ],
)
def test_a_bad_source_has_its_error_and_leaves_nothing(
    site: Site, server: Server, client: Client, path: str, error: tuple[str, str | None]
) -> None:
    before = made(server)
    [item] = ask(client, site.url(path))
    assert (item["error_code"], item.get("details", {}).get("reason")) == error
    assert str(server.folder) not in item["message"]
    assert made(server) == before
    assert not left_over(server)


@pytest.mark.parametrize(
    ("path", "reason", "tries"),
    [("/down.mp4", "http", 3), ("/stalled.mp4", "timeout", 3), ("/404-b.mp4", "not_found", 1)],
)
def test_what_may_pass_is_tried_three_times_and_nothing_else(
    site: Site, client: Client, path: str, reason: str, tries: int
) -> None:
    site.seen.clear()
    [item] = ask(client, site.url(path))
    assert item["details"]["reason"] == reason
    looks = 2 if path == "/stalled.mp4" else 1  # its first bytes are looked at before they are loaded
    assert site.seen[path] == tries * looks


def test_a_source_that_recovers_is_downloaded(site: Site, client: Client) -> None:
    [item] = ask(client, site.url("/flaky.mp4"))
    assert Path(item["file"]).read_bytes() == site.clip


def test_a_source_that_says_when_is_asked_again_then_and_not_before(site: Site, client: Client) -> None:
    site.seen.clear()
    began = time.monotonic()
    [item] = ask(client, site.url("/busy.mp4"))
    assert Path(item["file"]).read_bytes() == site.clip
    assert time.monotonic() - began >= 1.0
    assert site.seen["/busy.mp4"] == 3, "once in vain, then its first bytes and the whole"


@pytest.mark.parametrize(
    "message", [{"urls": []}, {"urls": "http://a.example"}, {}, {"urls": ["x"], "data_type": "all"}]
)
def test_a_message_that_is_none_is_refused(client: Client, message: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"urls|data_type"):
        client.submit("dlp", **message)


# Stopping.


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Server]:
    """A server that downloads one at a time, so that the second shows when the first has ended."""
    with Server(tmp_path, DLP_ALLOW_PRIVATE="1", DLP_CONCURRENCY="1", DLP_SOCKET_TIMEOUT="30") as served:
        yield served


def begun(site: Site, client: Client) -> Any:
    """A download that waits in its middle."""
    site.gate.clear()
    job = client.submit("dlp", urls=[site.url("/gated.mp4")])
    assert all(site.half_way.acquire(timeout=PATIENCE) for _ in range(2))
    return job


def test_cancelling_frees_the_place_for_the_next_download_and_leaves_nothing(site: Site, narrow: Server) -> None:
    with Client(narrow.url) as client:
        job = begun(site, client)
        assert job.cancel()
        [item] = ask(client, site.url("/clip.mp4"))
        assert made(narrow) == [Path(item["file"])]
        assert not left_over(narrow)


def test_a_download_goes_on_after_a_crash_and_leaves_one_file(site: Site, narrow: Server) -> None:
    with Client(narrow.url) as client:
        job, token = begun(site, client), client.token
        narrow.kill()
    assert made(narrow) == []
    narrow.start()
    with Client(narrow.url, token) as client:
        assert all(site.half_way.acquire(timeout=PATIENCE) for _ in range(2))
        site.gate.set()
        [item] = client.job(job.id).result()["data"]
        assert made(narrow) == [Path(item["file"])]
    assert narrow.stop() == 0
    assert not left_over(narrow)


# Forbidden addresses, with the settings as they come.


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("closed"), **FAST) as served:
        yield served


def test_no_form_of_a_local_address_is_fetched(site: Site, closed: Server) -> None:
    site.seen.clear()
    hosts = [
        *("127.0.0.1", "[::1]", "0.0.0.0", "[::]", "2130706433", "0x7f000001", "017700000001", "127.1", "0"),
        *("localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "a.localhost", "user:pass@127.0.0.1"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
        *("169.254.169.254", "169.254.1.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "[fe80::1]", "[fd00:ec2::254]"),
        *("224.0.0.1", "255.255.255.255"),
    ]
    urls = [f"http://{host}:{site.port}/clip.mp4" for host in hosts]
    urls += ["https://127.0.0.1/", "file:///etc/passwd", "ftp://127.0.0.1/a.mp4", "data:video/mp4;base64,AAAA"]
    with Client(closed.url) as client:
        data = ask(client, *urls)
    assert {item["url"]: item["error_code"] for item in data if item["error_code"] != "URL_FORBIDDEN"} == {}
    assert not site.seen
    assert not left_over(closed)


def test_a_redirect_between_local_names_is_not_followed(site: Site, closed: Server) -> None:
    site.seen.clear()
    with Client(closed.url) as client:
        [item] = ask(client, site.url(f"/redirect?to={site.url('/clip.mp4')}", host="localhost"))
    assert item["error_code"] == "URL_FORBIDDEN"
    assert "DLP_ALLOW_PRIVATE" in item["message"]
    assert not site.seen


# The pieces.


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("file:///etc/passwd", UrlForbidden),
        ("FTP://host/a", UrlForbidden),
        ("data:text/html,a", UrlForbidden),
        ("rtmp://host/a", UrlForbidden),
        ("gopher://127.0.0.1:25/_", UrlForbidden),
        ("", InvalidInput),
        ("www.example.com/video", InvalidInput),
        ("http://", InvalidInput),
        ("http://a b/", InvalidInput),
        ("http://a/\x00", InvalidInput),
        ("http://a/\ud800", InvalidInput),
        ("http://a:99999/", InvalidInput),
        ("http://[::1/", InvalidInput),
        ("ytsearch:cats", InvalidInput),
        ("http://a/" + "x" * 5000, InvalidInput),
    ],
)
def test_what_is_no_url_of_the_web_is_refused_at_the_door(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        checked_url(text)


@pytest.mark.parametrize(
    "url", ["https://a.example/my talk.mp4", "https://a.example/1 https://a.example/2", "http://a b/"]
)
def test_a_blank_in_a_url_is_told_as_such(url: str) -> None:
    with pytest.raises(InvalidInput, match="blank"):
        checked_url(url)


def test_a_url_loses_what_yt_dlp_would_take_for_its_own_notes() -> None:
    assert checked_url(' https://a.example/v?x=1#t#__youtubedl_smuggle={"x":1} ') == "https://a.example/v?x=1#t"


FORMATS: list[dict[str, Any]] = [
    {"id": "story", "vcodec": "none", "acodec": "none", "ext": "mhtml", "protocol": "mhtml"},
    {"id": "opus", "vcodec": "none", "acodec": "opus", "ext": "webm", "protocol": "https"},
    {"id": "aac", "vcodec": "none", "acodec": "mp4a", "ext": "m4a", "protocol": "https"},
    {"id": "both", "vcodec": "avc1", "acodec": "mp4a", "ext": "mp4", "protocol": "https"},
    {"id": "vp9", "vcodec": "vp9", "acodec": "none", "ext": "webm", "protocol": "https"},
    {"id": "h264", "vcodec": "avc1", "acodec": "none", "ext": "mp4", "protocol": "m3u8_native"},
    {"id": "drm", "vcodec": "avc1", "acodec": "mp4a", "ext": "mp4", "protocol": "https", "has_drm": True},
    {"id": "rtmp", "vcodec": "avc1", "acodec": "mp4a", "ext": "flv", "protocol": "rtmp"},
]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("story opus aac both vp9 h264 drm rtmp", ["h264", "aac"]),
        ("story opus aac both vp9", ["vp9", "opus"]),
        ("opus aac vp9 both", ["both"]),
        ("opus h264", ["h264", "opus"]),
        ("story opus aac", ["aac"]),
        ("vp9", ["vp9"]),
        ("story drm rtmp", []),
    ],
)
def test_the_best_picture_and_the_sound_that_fits_it_are_chosen(offered: str, chosen: list[str]) -> None:
    by_id = {one["id"]: one for one in FORMATS}
    assert [one["id"] for one in choose({"formats": [by_id[name] for name in offered.split()]})] == chosen


def test_a_generic_file_of_unknown_codecs_is_chosen() -> None:
    one = {"url": "https://a.example/film.mp4", "ext": "mp4"}
    assert list(choose({"formats": [one]})) == [one]


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    return Meter(
        tmp_path, Limits(10**15, 3600, 5, 720), Errand(), lambda *args, **details: told.append((args, details))
    )


told: list[Any] = []


def test_progress_counts_the_bytes_of_all_parts(meter: Meter) -> None:
    told.clear()
    status = {"status": "downloading", "speed": 5.0}
    meter.hook({**status, "filename": "picture", "downloaded_bytes": 600, "total_bytes": 1000, "eta": 4})
    meter.hook({**status, "filename": "picture", "downloaded_bytes": 1000, "total_bytes": 1000})
    meter.hook({**status, "filename": "sound", "downloaded_bytes": 50, "total_bytes": 200})
    assert told[0] == ((0.6, 4), {"bytes": 600, "total": 1000, "speed": 5.0})
    assert told[2] == ((0.25, None), {"bytes": 1050, "total": 1200, "speed": 5.0})


def test_what_the_disk_cannot_hold_is_not_begun(meter: Meter) -> None:
    with pytest.raises(DiskFull):
        meter.hook({"filename": "a", "downloaded_bytes": 1, "total_bytes": 10**14})


def test_a_segment_without_end_is_too_large(meter: Meter) -> None:
    meter.hook({"filename": "a", "downloaded_bytes": 1, "fragment_index": 1})
    with pytest.raises(TooLarge):
        meter.hook({"filename": "a", "downloaded_bytes": 300 * MIB, "fragment_index": 1})


def wrapped(cause: Exception) -> DownloadError:
    """As yt-dlp wraps what its downloaders meet."""
    try:
        raise cause
    except type(cause):
        return DownloadError("ERROR: unable to write data", sys.exc_info())


def test_a_full_disk_is_told_as_such_and_not_tried_again() -> None:
    full = wrapped(OSError(errno.ENOSPC, "No space left on device"))
    assert not passes(full)
    assert as_service_error(full, Errand()).code == "DISK_FULL"


@pytest.mark.parametrize(
    ("status", "said", "later"),
    [
        (429, "120", {"retry_after": 120}),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", {"retry_after": 0}),
        (503, "Fri, 31 Dec 2300 23:59:59 GMT", {"retry_after": LONGEST_PAUSE}),
        (503, "99999999999", {}),
        (429, "soon", {}),
        (429, None, {}),
        (404, "120", {}),
    ],
)
def test_a_failure_says_when_its_source_wants_to_be_asked_again(
    status: int, said: str | None, later: dict[str, Any]
) -> None:
    headers = {"Retry-After": said} if said else {}
    error = HTTPError(Response(io.BytesIO(), "http://example.com/", headers, status))
    details = as_service_error(wrapped(error), Errand()).details
    assert {key: value for key, value in details.items() if key != "reason"} == later


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ExtractorError("This video is DRM protected", expected=True), "drm"),
        (ExtractorError("Sign in to confirm your age. Use --cookies", expected=True), "age"),
        (ExtractorError("This video is only available for registered users", expected=True), "login"),
        (ExtractorError("Private video. Sign in if you've been granted access", expected=True), "login"),
        (ExtractorError("This live event will begin in 3 hours.", expected=True), "live"),
        (GeoRestrictedError("Not here", countries=["NZ"]), "geo"),
        (ExtractorError("Video unavailable. It was removed by the uploader", expected=True), "site"),
        (ExtractorError("Unable to extract player version"), "unreadable"),
    ],
)
def test_what_a_site_says_becomes_a_sentence_and_is_not_tried_again(error: Exception, reason: str) -> None:
    assert not passes(wrapped(error))
    failure = as_service_error(wrapped(error), Errand())
    assert (failure.code, failure.details["reason"]) == ("DOWNLOAD_FAILED", reason)


def test_a_refusal_of_the_sandbox_goes_before_whatever_it_led_to() -> None:
    errand = Errand()
    errand.refused = True
    assert as_service_error(wrapped(TransportError("unreachable")), errand).code == "URL_FORBIDDEN"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A talk: part 1/2", "A_talk_part_1_2"),
        ("../../etc/passwd", "etc_passwd"),
        ("-rf .hidden", "rf_.hidden"),
        ("Grüße, 世界!", "Grüße_世界"),
        ("?\0\n", "video"),
        ("世" * 100, "世" * 40),
    ],
)
def test_titles_become_safe_names(title: str, name: str) -> None:
    assert safe(title) == name


def nothing() -> None:
    """Nobody has cancelled."""


def finished(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "00001.mp4"
    path.write_text(text)
    return path


def test_a_later_attempt_replaces_what_an_earlier_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    other = keep(finished(tmp_path / "w", "other"), folder, "A", "job.dlp.1", nothing)
    keep(finished(tmp_path / "w", "early"), folder, "A", "job.dlp.0", nothing)
    late = keep(finished(tmp_path / "w", "late"), folder, "A, renamed", "job.dlp.0", nothing)
    assert sorted(folder.iterdir()) == sorted([other, late])
    assert late.read_text() == "late"
    discard(folder, "job.dlp.0")
    assert list(folder.iterdir()) == [other]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_file_comes_whole_from_another_disk_or_not_at_all(tmp_path: Path) -> None:
    shared = Path("/dev/shm") / f"optivus-{os.getpid()}"
    try:
        path = finished(shared, "whole")
        with pytest.raises(InterruptedError):
            keep(path, tmp_path, "A", "key", _cancelled)
        assert list(tmp_path.iterdir()) == []
        assert keep(path, tmp_path, "A", "key", nothing).read_text() == "whole"
    finally:
        (shared / "00001.mp4").unlink()
        shared.rmdir()


def _cancelled() -> None:
    raise InterruptedError
