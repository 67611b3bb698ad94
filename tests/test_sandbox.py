"""What the process that downloads may reach, and what it may start: nothing private, by no road (P13)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.errors import UnsupportedMedia
from media import ffmpeg
from tests.recordings import beep, write
from tests.sandboxed import ask, confined_input
from tests.sites import INNER, Site
from workers.dlp.confined import is_confined_deno
from workers.dlp.sandbox import Errand, Refused, Rules, Sandbox, is_public


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as served:
        yield served


@pytest.mark.parametrize("host", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"])
def test_public_addresses_are_public(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
        *("169.254.169.254", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1"),
        *("fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "100::1"),
        *("64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1"),
        *("2001::1", "3fff::1", "localhost", "127.1", "2130706433", "0x7f000001", "", "1.1.1.1 ", "no.such.name"),
    ],
)
def test_no_other_address_is_public(host: str) -> None:
    assert not is_public(host)


def test_every_way_to_connect_and_to_start_a_program_is_refused() -> None:
    assert {way: end for way, end in ask(attempts=True).items() if end != "Refused"} == {}


def test_an_allowed_address_is_reached_and_its_file_is_whole(site: Site) -> None:
    found = ask(fetch=site.url("/clip.mp4"), allow=[["127.0.0.1", site.port]])
    assert (found["suffix"], found["has_video"]) == (".mp4", True)


def test_segments_are_joined_by_a_confined_ffmpeg(site: Site) -> None:
    found = ask(fetch=site.url("/hls.m3u8"), allow=[["127.0.0.1", site.port]])
    assert (found["suffix"], found["has_video"]) == (".mp4", True)
    assert found["duration"] == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("path", INNER)
def test_an_allowed_source_leads_to_no_local_address(site: Site, tmp_path: Path, path: str) -> None:
    with Site(tmp_path) as other:
        url = site.url(path.format(other=other.url(""), port=other.port))
        found = ask(fetch=url, allow=[["127.0.0.1", site.port]])
        assert found["error_code"] == "URL_FORBIDDEN"
        assert not other.seen


def test_a_name_that_changes_its_address_between_two_looks_is_refused(site: Site) -> None:
    """The second request of the same page finds another address behind the same name."""
    for names, code in ((["127.0.0.1"], None), (["127.0.0.1", "127.0.0.2"], "URL_FORBIDDEN")):
        found = ask(
            fetch=site.url("/page.html", host="rebind.example"),
            allow=[["127.0.0.1", site.port]],
            names={"rebind.example": names},
        )
        assert found.get("error_code") == code


def test_a_name_with_a_private_address_is_refused(site: Site) -> None:
    site.seen.clear()
    url = site.url("/clip.mp4", host="inside.example")
    assert ask(fetch=url, names={"inside.example": ["127.0.0.1"]})["error_code"] == "URL_FORBIDDEN"
    assert not site.seen


def test_behind_a_proxy_only_the_proxy_is_connected_to(site: Site, tmp_path: Path) -> None:
    proxy = ["localhost", site.port]
    assert ask(fetch="http://films.example/clip.mp4", proxy=proxy)["suffix"] == ".mp4"
    with Site(tmp_path) as other:
        for url in (other.url("/clip.mp4"), f"http://films.example/redirect?to={other.url('/clip.mp4')}"):
            assert ask(fetch=url, proxy=proxy)["error_code"] == "URL_FORBIDDEN"
        assert not other.seen


@pytest.mark.parametrize("url", ["http://2130706433/", "http://0x7f.1/", "http://127.0.0.1./", "http://LOCALHOST/"])
def test_a_url_that_is_plainly_local_is_refused_before_anybody_connects(url: str) -> None:
    with Errand() as errand, pytest.raises(Refused):
        Sandbox(Rules(proxy=("proxy.example", 3128))).check_url(url)
    assert errand.refused


def test_a_stopped_errand_wakes_whoever_reads(site: Site) -> None:
    """What hears of sockets is the audit hook; here it is told by hand."""
    errand = Errand()
    with socket.create_connection(("127.0.0.1", site.port)) as sock:
        errand.watch(sock)
        heard: list[bytes] = []
        reader = threading.Thread(target=lambda: heard.append(sock.recv(1)))
        reader.start()
        killed = threading.Event()
        errand.on_stop(killed.set)
        errand.stop()
        reader.join(5)
    assert heard == [b""]
    assert killed.is_set()
    late = threading.Event()
    errand.on_stop(late.set)
    assert late.is_set()


# The programs.


def test_ffmpeg_is_confined_only_with_the_whitelists_before_each_input() -> None:
    whole = [ffmpeg.binary(), "-y", *confined_input(), "-i", "a", *confined_input(), "-i", "b", "out.mp4"]
    assert ffmpeg.is_confined(whole)
    assert not ffmpeg.is_confined([*whole[:1], "-i", "a", *whole[2:]])
    assert not ffmpeg.is_confined(["/bin/sh", *whole[1:]])
    assert not ffmpeg.is_confined([ffmpeg.binary(), "-version"])


@pytest.mark.parametrize(
    ("words", "confined"),
    [
        (["deno", "--version"], True),
        (["/opt/deno", "run", "--ext=js", "--no-prompt", "--no-remote", "--cached-only", "-"], True),
        (["deno", "run", "--no-prompt", "--allow-net", "-"], False),
        (["deno", "run", "--no-prompt", "-A", "-"], False),
        (["deno", "run", "--no-prompt", "http://127.0.0.1/x.js"], False),
        (["deno", "run", "--ext=js", "-"], False),
        (["sh", "--version"], False),
    ],
)
def test_deno_runs_only_without_any_permission(words: list[str], confined: bool) -> None:
    assert is_confined_deno(words) is confined


def test_a_playlist_named_mp4_is_no_input_for_ffmpeg(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.ts", beep(1.0, at=0.2), "aac")
    (tmp_path / "film.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UnsupportedMedia):
        ffmpeg.join([tmp_path / "film.mp4"], tmp_path / "out.mp4", _nobody)


def _nobody(stop: Any) -> None:
    """Nothing stops these."""
