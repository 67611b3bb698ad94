"""The `video` pipeline end to end: downloads, Whisper and Florence of a real server on films with known truth."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from client import Client, OptivusError, Partial
from tests.accuracy import word_error_rate
from tests.films import SHOWN, film_server, furnish
from tests.servers import Server
from tests.sites import Site

SPOKEN = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country"
real_models = pytest.mark.skipif(not os.environ.get("OPTIVUS_TEST_MODELS"), reason="without real models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    with Site(folder / "site") as site:
        site.clip = (folder / "film.mp4").read_bytes()
        yield site


@pytest.fixture(scope="module")
def server(folder: Path, whisper_model: Path, florence_model: Path) -> Iterator[Server]:
    with film_server(folder, whisper_model, florence_model) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def elements(client: Client, type: str = "video", **params: Any) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = client.submit(type, **params).result()["data"]
    return data


def is_the_film(element: dict[str, Any]) -> None:
    """Said and seen, in the documented shapes; word for word where the models can."""
    assert element["transcribe_audio"]["duration"] == pytest.approx(11.0, abs=0.2)
    segments = element["transcribe_video"]
    assert segments[0]["start"] == 0.0
    assert segments[-1]["end"] == pytest.approx(11.0, abs=0.2)
    assert all(before["end"] == after["start"] for before, after in pairwise(segments))
    if os.environ.get("OPTIVUS_TEST_MODELS"):
        assert word_error_rate(SPOKEN, element["transcribe_audio"]["text"]) < 0.1
        assert [segment["text"] for segment in segments] == [caption for caption, _, _ in SHOWN]
        assert segments[0]["end"] == pytest.approx(SHOWN[0][2], abs=0.11)


def test_a_film_by_path_is_heard_and_seen_and_left_as_it_was(client: Client, folder: Path) -> None:
    film = folder / "film.mp4"
    before = film.read_bytes(), film.stat().st_mtime_ns
    job = client.submit("video", file="film.mp4")
    partials = [event for event in job.events() if isinstance(event, Partial)]
    [element] = job.result()["data"]
    is_the_film(element)
    assert "info" not in element
    assert {event.stage for event in partials} == {"whisper", "florence", "data"}
    assert [event.data for event in partials if event.stage == "data"] == [element]
    assert (film.read_bytes(), film.stat().st_mtime_ns) == before


def test_urls_and_files_keep_their_order_and_errors_their_places(client: Client, site: Site, folder: Path) -> None:
    upload = client.upload(folder / "film.mp4")
    wrong: dict[str, Any] = {
        "files": [upload, "nowhere.mp4"],
        "urls": [site.url("/missing.mp4"), site.url("/clip.mp4")],
    }
    of_file, absent, missing, of_url = elements(client, **wrong)
    is_the_film(of_file)
    is_the_film(of_url)
    assert of_url["info"]["url"] == site.url("/clip.mp4")
    assert Path(of_url["info"]["file"]).read_bytes() == site.clip
    assert (absent["status"], absent["error_code"]) == ("error", "FILE_NOT_FOUND")
    assert (missing["error_code"], missing["url"]) == ("DOWNLOAD_FAILED", site.url("/missing.mp4"))


@pytest.mark.parametrize(
    ("type", "asked"), [("whisp", {"file": "film.mp4"}), ("flrnc", {"file": "film.mp4"}), ("dlp", {"urls": 1})]
)
def test_v_conv_turns_any_type_into_the_pipeline(client: Client, site: Site, type: str, asked: dict[str, Any]) -> None:
    if "urls" in asked:
        asked = {"urls": [site.url("/clip.mp4")]}
    answer = client.submit(type, v_conv=True, **asked).result()
    assert answer["type"] == type
    is_the_film(answer["data"][0])


def test_a_film_without_sound_has_an_empty_transcript_with_a_reason(client: Client) -> None:
    [element] = elements(client, file="silent.mp4")
    assert (element["transcribe_audio"]["text"], element["transcribe_audio"]["chunks"]) == ("", [])
    assert "no sound" in element["transcribe_audio"]["reason"]
    assert element["transcribe_video"]


def test_sound_alone_is_heard_and_what_cannot_be_seen_says_so(client: Client) -> None:
    [element] = elements(client, file="sound.wav")
    assert element["transcribe_audio"]["duration"] == pytest.approx(2.0, abs=0.1)
    assert element["transcribe_video"]["error_code"] == "NO_VIDEO"


def test_a_picture_is_no_video(client: Client) -> None:
    [element] = elements(client, file="picture.png")
    assert element["status"] == "error"
    assert element["error_code"] in {"UNSUPPORTED_MEDIA", "NO_VIDEO"}


@real_models
def test_options_reach_the_models(client: Client) -> None:
    [under] = elements(
        client, file="film.mp4", whisper={"word_timestamps": True}, florence={"prompt": "<DETAILED_CAPTION>"}
    )
    assert under["transcribe_audio"]["chunks"][0]["words"]
    assert under["transcribe_video"][0]["text"].startswith("The image shows a large red circle")
    [beside] = elements(
        client, "whisp", v_conv=True, file="film.mp4", word_timestamps=True, prompt="<DETAILED_CAPTION>"
    )
    assert beside["transcribe_audio"]["chunks"][0]["words"]
    assert beside["transcribe_video"] == under["transcribe_video"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"urls": []},
        {"urls": "http://one.example"},
        {"files": 5},
        {"file": "film.mp4", "whisper": []},
        {"file": "film.mp4", "whisper": {"language": 5}},
        {"file": "film.mp4", "florence": {"prompt": "<NO SUCH TASK>"}},
    ],
)
def test_what_cannot_be_asked_is_refused(client: Client, wrong: dict[str, Any]) -> None:
    with pytest.raises(OptivusError) as refused:
        client.submit("video", **wrong).result()
    assert refused.value.code == "INVALID_INPUT"


def test_a_private_address_is_refused_unless_the_operator_allows_it(tmp_path: Path, site: Site) -> None:
    with Server(tmp_path) as closed, Client(closed.url) as client:
        [element] = elements(client, urls=[site.url("/clip.mp4")])
    assert element["error_code"] == "URL_FORBIDDEN"


@pytest.mark.parametrize("killed", ["whisper", "florence"])
def test_a_killed_model_costs_no_finished_stage(client: Client, server: Server, site: Site, killed: str) -> None:
    url = site.url("/clip.mp4")
    site.seen.clear()
    elements(client, urls=[url])  # how often one download asks for its film
    once = site.seen["/clip.mp4"]
    site.seen.clear()
    job = client.submit("video", urls=[url])
    for event in job.events():
        if isinstance(event, Partial) and event.stage == killed:
            os.kill(server.worker(killed), signal.SIGKILL)
            break
    is_the_film(job.result()["data"][0])
    assert site.seen["/clip.mp4"] == once


def test_a_killed_download_is_made_again(client: Client, server: Server, site: Site) -> None:
    elements(client, urls=[site.url("/clip.mp4")])  # its process is there
    site.gate.clear()
    job = client.submit("video", urls=[site.url("/gated.mp4")])
    assert site.half_way.acquire(timeout=20)
    os.kill(server.worker("dlp"), signal.SIGKILL)
    site.gate.set()
    is_the_film(job.result()["data"][0])
