"""`optivus describe`, `video`, `download`, and `transcribe` of URLs, on a server with real models and its own site."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.describe import clock, timeline
from tests.asking import Optivus
from tests.checkpoints import SENTENCE as SPOKEN
from tests.checkpoints_florence import SENTENCE as SHOWN
from tests.films import film_server, furnish
from tests.servers import Server
from tests.sites import Site
from tests.test_cli import Terminal

REAL = bool(os.environ.get("OPTIVUS_TEST_MODELS"))
CIRCLE = "a red circle" if REAL else SHOWN
SQUARE = "a blue square" if REAL else SHOWN
SAID = "fellow Americans" if REAL else SPOKEN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    with Site(folder / "site") as site:
        site.clip = (folder / "film.mp4").read_bytes()
        yield site


@pytest.fixture(scope="module")
def server(folder: Path, whisper_model: Path, florence_model: Path) -> Iterator[Server]:
    with film_server(folder, whisper_model, florence_model) as server:
        yield server


# What is seen.


def test_picture_is_described_by_its_caption_alone(optivus: Optivus, folder: Path) -> None:
    assert optivus("describe", folder / "picture.png") == (0, f"{CIRCLE}\n", "")
    several = optivus("describe", folder / "picture.png", folder / "absent.png", folder / "picture.png")
    line = f"{folder}/picture.png: {CIRCLE}\n"
    assert several == (1, line * 2, f"{folder}/absent.png: No such file or directory\n")


def test_film_is_described_in_lines_with_times(optivus: Optivus, folder: Path, site: Site) -> None:
    for film in (folder / "film.mp4", site.url("/clip.mp4")):
        status, shown, said = optivus("describe", film)
        assert (status, said) == (0, "")
        lines = shown.splitlines()
        assert re.fullmatch(rf"00:00\.0-(\d\d:\d\d\.\d)  {CIRCLE}", lines[0])
        assert re.fullmatch(rf"\d\d:\d\d\.\d-00:11\.\d  {SQUARE}", lines[-1])


def test_prompt_needs_no_brackets_and_places_are_lines(optivus: Optivus, folder: Path) -> None:
    for prompt in ("od", "<OD>"):
        status, shown, said = optivus("describe", folder / "picture.png", "--prompt", prompt)
        assert (status, said) == (0, "")
        assert re.fullmatch(r".+ \(\d+, \d+, \d+, \d+\)", shown.splitlines()[0])
    answer = json.loads(optivus("describe", folder / "picture.png", "--prompt", "detailed-caption", "--json")[1])
    assert (answer["file"], answer["type"]) == (f"{folder}/picture.png", "flrnc")
    status, _, said = optivus("describe", folder / "picture.png", "--prompt", "dance")
    assert (status, "<DETAILED_CAPTION>" in said) == (1, True)


# What is said and seen.


def test_film_is_one_timeline(optivus: Optivus, folder: Path, site: Site) -> None:
    for film in (folder / "film.mp4", site.url("/clip.mp4")):
        status, shown, said = optivus("video", film)
        assert (status, said) == (0, "")
        lines = shown.splitlines()
        assert lines[0] == f"00:00.0  [{CIRCLE}]"
        assert any(SAID in line and "[" not in line for line in lines)
        assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)


def test_half_that_is_missing_is_told_and_the_other_printed(optivus: Optivus, folder: Path, site: Site) -> None:
    gone = site.url("/missing.mp4")
    status, shown, said = optivus("video", folder / "sound.wav", gone, folder / "silent.mp4")
    assert status == 1
    assert [line for line in shown.splitlines() if line.endswith(":")] == [
        f"{folder}/sound.wav:",
        f"{folder}/silent.mp4:",
    ]
    sound, missing = said.splitlines()
    assert sound.startswith(f"{folder}/sound.wav: ")
    assert missing.startswith(f"{gone}: ")
    element = json.loads(optivus("video", folder / "silent.mp4", "--json", "--language", "EN")[1])
    assert element["transcribe_audio"]["chunks"] == []
    assert element["transcribe_video"][0]["text"] == CIRCLE


def test_audio_track_may_be_chosen(optivus: Optivus, folder: Path) -> None:
    for command in ("transcribe", "video"):
        status, shown, said = optivus(command, folder / "film.mp4", "--track", "1")
        assert (status, SAID in shown, said) == (0, True, "")
        status, _, said = optivus(command, folder / "film.mp4", "--track", "9")
        assert (status, "no audio track 9; it has 1" in said) == (1, True)


def test_timeline_is_by_beginning_and_what_is_seen_comes_first() -> None:
    said = {"chunks": [{"start": 0.0, "end": 2.0, "text": " One"}, {"start": 3661.96, "end": 3662.0, "text": "two"}]}
    seen = [{"start": 0.0, "end": 60.0, "text": "a"}, {"start": 60.0, "end": 3700.0, "text": "b"}]
    element = {"transcribe_audio": said, "transcribe_video": seen}
    assert timeline(element) == ["00:00.0  [a]", "00:00.0  One", "01:00.0  [b]", "1:01:02.0  two"]
    broken = {"error_code": "NO_VIDEO", "message": "There is no picture."}
    assert timeline({**element, "transcribe_video": broken}) == ["00:00.0  One", "1:01:02.0  two"]
    assert clock(59.96) == "01:00.0"


# From URLs.


def test_url_is_transcribed(optivus: Optivus, site: Site) -> None:
    status, shown, said = optivus("transcribe", site.url("/clip.mp4"))
    assert (status, said) == (0, "")
    assert SAID in shown
    answer = json.loads(optivus("transcribe", site.url("/clip.mp4"), "--json")[1])
    assert (answer["file"], answer["info"]["url"]) == (site.url("/clip.mp4"),) * 2
    status, shown, said = optivus("transcribe", site.url("/missing.mp4"))
    assert (status, shown, said.startswith(f"{site.url('/missing.mp4')}: ")) == (1, "", True)


def test_downloads_come_to_this_machine(optivus: Optivus, site: Site, tmp_path: Path) -> None:
    asked = [site.url(path) for path in ("/clip.mp4", "/missing.mp4", "/sound.m4a")]
    status, shown, said = optivus("download", *asked, "-o", tmp_path / "new" / "folder")
    assert status == 1
    assert said.startswith(f"{asked[1]}: ")
    assert said.count("\n") == 1
    files = {Path(line) for line in shown.splitlines()}
    assert files == set((tmp_path / "new" / "folder").iterdir())
    assert {path.name for path in files} == {"clip.mp4", "sound.m4a"}
    assert (tmp_path / "new" / "folder" / "clip.mp4").read_bytes() == site.clip
    again = json.loads(optivus("download", asked[0], "--json", "-o", tmp_path / "new" / "folder")[1])
    assert again["saved"] == str(tmp_path / "new" / "folder" / "clip-2.mp4")
    assert Path(again["saved"]).read_bytes() == site.clip


def test_one_download_may_be_given_its_name(optivus: Optivus, site: Site, tmp_path: Path) -> None:
    target = tmp_path / "talk.mp4"
    target.write_bytes(b"of an earlier run")
    assert optivus("download", site.url("/clip.mp4"), "-o", target) == (0, f"{target}\n", "")
    assert target.read_bytes() == site.clip
    with pytest.raises(SystemExit, match="2"):
        optivus("download", site.url("/clip.mp4"), site.url("/sound.m4a"), "-o", target)


def test_metadata_is_told_without_a_download(
    optivus: Optivus, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, shown, said = optivus("download", "--info", site.url("/several"))
    assert (status, said) == (0, "")
    title, *about = shown.splitlines()
    assert "A page" in title
    assert f"  url: {site.url('/several')}" in about
    assert any(line.strip().startswith(site.url("/sound.m4a")) for line in about)
    assert json.loads(optivus("download", "--info", "--json", site.url("/clip.mp4"))[1])["file"] is None
    assert not list(tmp_path.iterdir())


def test_download_has_bars_on_a_terminal_and_its_path_alone_on_the_screen(
    server: Server, site: Site, tmp_path: Path
) -> None:
    terminal = Terminal("download", "--server", server.url, "-o", tmp_path, site.url("/clip.mp4"))
    assert terminal.end() == 0
    assert terminal.lines == [f"{tmp_path}/clip.mp4"]
    assert "downloading" in terminal.shown
