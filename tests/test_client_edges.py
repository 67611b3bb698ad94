"""The Python client where things are not as on the author's desk.

A proxy's path, a server that has lost its data, calls that are given up, files that are none yet, unknown options.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from client import AsyncClient, Cancelled, Client, OptivusError, OptivusWarning
from client.tasks import INLINE_BYTES
from client.web import Web, base_url
from client.writing import free_name
from tests.below import Below
from tests.conftest import TOYS
from tests.proxy import Proxy
from tests.scripts import Script, scripted_server
from tests.servers import Server
from tests.test_client import WORDS
from tests.test_client_speech import LONG, sound_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def text_of(answer: dict[str, Any]) -> list[str]:
    words: list[str] = answer["transcribe_audio"]["text"].split()
    return words


async def state(client: AsyncClient) -> list[str]:
    return [row.state for row in await client.jobs()]


async def outcomes(client: AsyncClient) -> list[str | None]:
    """How the client's jobs end."""
    jobs = [await client.job(row.job_id) for row in await client.jobs()]
    for job in jobs:
        with contextlib.suppress(OptivusError):
            await job.result()
    return [job.final.status if job.final else None for job in jobs]


def test_sync_client_has_every_name_of_the_other() -> None:
    public = {name for name in dir(AsyncClient) if not name.startswith("_")}
    assert public <= set(dir(Client))


# A base URL with a path.


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("host:5000", "http://host:5000"),
        ("http://host:5000/", "http://host:5000"),
        ("https://host/media", "https://host/media"),
        ("https://host/a/b/?x=1#y", "https://host/a/b"),
        ("http://host:5000/docs", "http://host:5000"),
        ("https://host/media/docs/", "https://host/media"),
    ],
)
def test_base_url_keeps_its_path(given: str, meant: str) -> None:
    assert base_url(given) == meant


@pytest.mark.parametrize("wrong", ["", "http://", "http://[::1", "http://host:port", "ftp://host", "http://:5000"])
def test_address_that_is_none_is_told(wrong: str) -> None:
    with pytest.raises(OptivusError, match="no address of a server"), Client(wrong):
        pass


@pytest.mark.parametrize("named", ["ann:pa55word@", "ann@", ":pa55word@"])
def test_user_in_the_address_is_refused_before_anything_is_sent(named: str) -> None:
    """The token would travel in the same header; aiohttp raised a ValueError at the first upload."""
    with pytest.raises(OptivusError, match="leave it out") as refused, Client(f"https://{named}media.example/a"):
        pass
    assert refused.value.code == "INVALID_INPUT"
    assert "pa55word" not in str(refused.value)


async def test_everything_goes_below_the_path_of_the_base_url(server: Server, tmp_path: Path) -> None:
    texts = [str(number % 10) * 60_000 for number in range(60)]  # an answer too large for a message
    async with Below(server) as proxy, AsyncClient(f"{proxy.url}/") as client:
        assert client.url == proxy.url
        with Script(tmp_path, WORDS) as local, Script(tmp_path, texts) as large:
            assert text_of(await client.transcribe(local.path)) == WORDS
            assert text_of(await client.transcribe(large.path)) == texts
        spoken = await client.speak(LONG, audio_format="pcm")
        assert spoken["audio_data"] == sound_of(LONG)
        voice = await client.save_voice(io.BytesIO(b"a voice"), "And so")
        assert [row.reference_id for row in await client.voices()] == [voice]
        await client.delete_voice(voice)
        fetched = await client.download(spoken["fish"], tmp_path)
        assert fetched.read_bytes().endswith(sound_of(LONG))
        assert (await client.health())["status"] == "healthy"


@pytest.mark.parametrize(
    "told", ["/jobs/job_1", "jobs/job_1", "/media/jobs/job_1", "https://inner:5000/media/jobs/job_1?x=1"]
)
async def test_whole_answer_is_fetched_below_the_base_url_however_the_server_names_it(told: str) -> None:
    """A server behind a proxy may know its address in part, in whole, or not at all; the token goes nowhere else."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"answer": {"text": "whole"}})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as proxy:
        http = Web(str(proxy.make_url("/jobs/media")), lambda: "token")
        assert await http.whole(told) == {"text": "whole"}
        await http.close()
    assert asked == ["/jobs/media/jobs/job_1"]


# A server whose data are gone.


async def test_client_of_a_server_that_lost_its_data_becomes_a_new_one(server: Server, tmp_path: Path) -> None:
    with scripted_server(tmp_path) as lost, Script(tmp_path, WORDS) as script:
        async with AsyncClient(lost.url) as client:
            old = client.token
        lost.kill()
        shutil.rmtree(tmp_path / "data_dir")
        lost.start()
        with pytest.warns(OptivusWarning, match="no longer knows this client") as told:
            async with AsyncClient(lost.url, token=old) as client:
                assert client.token not in (None, old)
                assert text_of(await client.transcribe(script.path)) == WORDS
        assert len(told) == 1
        assert told[0].filename == __file__


async def test_data_lost_under_an_open_connection_end_its_jobs_and_not_the_client(tmp_path: Path) -> None:
    with scripted_server(tmp_path) as lost, Script(tmp_path, WORDS, gated=True) as script:
        async with Proxy(lost) as proxy, AsyncClient(proxy.url) as client:
            old = client.token
            job = await client.submit("whisp", file=script.path)
            with pytest.warns(OptivusWarning, match="no longer knows this client") as told:
                await asyncio.to_thread(lost.kill)
                shutil.rmtree(tmp_path / "data_dir")
                await asyncio.to_thread(lost.start)
                with pytest.raises(OptivusError) as gone:
                    await job.result()
                script.open(20)
                assert text_of(await client.transcribe(script.path)) == WORDS
            assert gone.value.code == "JOB_NOT_FOUND"
            assert client.token != old
            assert [each.category for each in told].count(OptivusWarning) == 1


def test_sync_client_with_a_strange_token_is_told_at_its_own_line(server: Server) -> None:
    with pytest.warns(OptivusWarning) as told, Client(server.url, token="of another server") as client:
        assert client.jobs() == []
    assert [warning.filename for warning in told] == [__file__]


# Calls that are given up.


async def test_transcription_that_times_out_is_cancelled(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, gated=True) as script:
        async with AsyncClient(server.url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.transcribe(script.path), 0.5)
            assert await outcomes(client) in (["cancelled"], [])  # the latter: not even submitted by then


@pytest.mark.parametrize("key", [None, "mine"])
async def test_waiting_that_ends_cancels_the_job_unless_it_has_a_key(
    server: Server, tmp_path: Path, key: str | None
) -> None:
    with Script(tmp_path, WORDS, gated=True) as script:
        async with AsyncClient(server.url) as client:
            waiting = asyncio.create_task(client.transcribe(script.path, idempotency_key=key))
            while await state(client) != ["processing"]:
                continue
            waiting.cancel()
            await asyncio.wait((waiting,))
            assert waiting.cancelled()
            if key is None:
                assert await outcomes(client) == ["cancelled"]
            script.open(6)
            if key is not None:
                assert text_of(await client.transcribe(script.path, idempotency_key=key)) == WORDS
                assert await outcomes(client) == ["success"]


async def test_submission_that_is_given_up_leaves_no_job(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, gated=True) as script:
        script.path.rename(server.folder / script.path.name)
        async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
            lost = proxy.lose(b"accepted", cut=True)
            submitting = asyncio.create_task(client.submit("whisp", file=script.path.name))
            await lost.wait()
            submitting.cancel()
            await asyncio.wait((submitting,))
            assert await outcomes(client) == ["cancelled"]


def test_ctrl_c_cancels_what_the_sync_client_waits_for(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, gated=True) as script, Client(server.url) as client, Client(server.url) as other:
        file_id = client.upload(script.path)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            client.transcribe(file_id)
        [row] = client.jobs()
        with pytest.raises(Cancelled):
            client.job(row.job_id).result()
        assert other.jobs() == []


# What the server warns of.


async def test_unknown_option_is_a_warning_at_the_callers_line(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS) as script:
        async with AsyncClient(server.url) as client:
            with pytest.warns(OptivusWarning, match="'word_timestamp'") as told:
                line = sys._getframe().f_lineno + 1
                await client.transcribe(script.path, word_timestamp=True)
            ours = [each for each in told if each.category is OptivusWarning]  # libraries may warn of their own
            assert [(each.filename, each.lineno) for each in ours] == [(__file__, line)]
            with pytest.warns(OptivusWarning) as told:
                await asyncio.gather(client.transcribe(script.path, word_timestamp=True))
            assert all(Path(each.filename).parent != Path(asyncio.__file__).parent for each in told)
            job = await client.submit("whisp", file=await client.upload(script.path), langage="en")
            with pytest.warns(OptivusWarning, match="'langage'"):
                await job.result()


def test_unknown_option_is_a_warning_of_the_sync_client_too(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS) as script, Client(server.url) as client:
        with pytest.warns(OptivusWarning, match="'word_timestamp'") as told:
            line = sys._getframe().f_lineno + 1
            client.transcribe(script.path, word_timestamp=True)
        assert [(each.filename, each.lineno) for each in told] == [(__file__, line)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            client.transcribe(script.path, word_timestamps=True)
            with pytest.raises(OptivusWarning):
                client.transcribe(script.path, word_timestamp=True)


# Files.


async def test_bytes_paths_and_file_objects_are_files(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS) as script, Script(tmp_path, WORDS, padding=3 * INLINE_BYTES) as large:
        async with AsyncClient(server.url) as client:
            for path in (script.path, large.path):
                content = path.read_bytes()
                for file in (content, bytearray(content), memoryview(content), path, str(path), io.BytesIO(content)):
                    assert text_of(await client.transcribe(file)) == WORDS
                with path.open("rb") as opened:
                    assert text_of(await client.transcribe(opened)) == WORDS
                    assert not opened.closed
                job = await client.submit("whisp", data=[{"file": content}, {"file": io.BytesIO(content)}])
                assert [text_of(item) for item in (await job.result())["data"]] == [WORDS, WORDS]


def test_sync_client_takes_bytes_and_file_objects(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, padding=5 << 20) as script, Client(server.url) as client:
        assert text_of(client.transcribe(script.path.read_bytes())) == WORDS
        with script.path.open("rb") as opened:
            assert text_of(client.transcribe(opened)) == WORDS
            assert opened.read() == b""
        with pytest.raises(TypeError, match="binary mode"), script.path.open() as text:
            client.transcribe(text)  # type: ignore[arg-type]


async def test_pipe_is_uploaded_as_it_comes(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS) as script:
        reading, writing = os.pipe()
        os.write(writing, script.path.read_bytes())
        os.close(writing)
        reports: list[tuple[int, int]] = []
        async with AsyncClient(server.url) as client:
            with os.fdopen(reading, "rb") as pipe:
                file_id = await client.upload(pipe, lambda *report: reports.append(report))
            assert text_of(await client.transcribe(file_id)) == WORDS
        assert reports[-1] == (script.path.stat().st_size, 0)


class Broken(io.BytesIO):
    """Gives something, and then fails."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 1 << 20:
            raise OSError(5, "Input/output error")
        return super().read(size)


async def test_file_that_cannot_be_read_is_no_lost_connection(server: Server, tmp_path: Path) -> None:
    packed = tmp_path / "talk.json.gz"
    async with AsyncClient(server.url) as client:
        with pytest.raises(OSError, match="Input/output error"):
            await client.upload(Broken(bytes(2 << 20)))
        with pytest.raises(IsADirectoryError):
            await client.upload(tmp_path)
        with Script(tmp_path, WORDS) as script:
            packed.write_bytes(gzip.compress(script.path.read_bytes()))
        with gzip.open(packed) as opened:  # its descriptor is that of the packed file, which has another size
            assert text_of(await client.transcribe(opened)) == WORDS


@pytest.mark.parametrize("url", ["https://example.com/talk.mp4", " HTTP://example.com", "s3://bucket/talk.mp3"])
async def test_url_as_a_file_is_told_what_takes_urls(server: Server, url: str) -> None:
    async with AsyncClient(server.url) as client:
        for type, asked in (("whisp", {"file": url}), ("fish", {"text": "Hello.", "references": [url]})):
            with pytest.raises(OptivusError, match=r"'urls'.*'video'.*'dlp'") as refused:
                await client.submit(type, **asked)
            assert refused.value.code == "INVALID_INPUT"
        with pytest.raises(OptivusError, match="'dlp'"):
            await client.transcribe(url)


# What the server made, fetched.


async def test_what_the_server_made_is_fetched_by_its_owner(server: Server, tmp_path: Path) -> None:
    async with AsyncClient(server.url) as client:
        made = (await client.speak(WORDS[0]))["fish"]
        content = Path(made).read_bytes()
        reports: list[tuple[int, int]] = []
        first = await client.download(made, tmp_path, lambda *report: reports.append(report))
        assert first == tmp_path / Path(made).name
        assert (first.read_bytes(), reports[-1]) == (content, (len(content), len(content)))
        second = await client.download(made, tmp_path)
        assert (second.stem, second.read_bytes()) == (f"{first.stem}-2", content)
        named = tmp_path / "named.wav"
        named.write_bytes(b"of an earlier run")
        assert await client.download(made, named) == named
        assert named.read_bytes() == content
        upload = await client.upload(b"an upload")
        assert (await client.download(upload, tmp_path / "upload")).read_bytes() == b"an upload"
        for wrong in (f"{made}.not", "/etc/hostname", "file_unknown", "a\ud800"):
            with pytest.raises(OptivusError) as refused:
                await client.download(wrong, tmp_path / "wrong")
            assert refused.value.code == "FILE_NOT_FOUND"
        assert not (tmp_path / "wrong").exists()
    assert {path.suffix for path in tmp_path.iterdir()} == {".wav", ""}


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("talk.mp4", "talk-2.mp4"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\run.exe", "run.exe"),
        (".bashrc", "bashrc"),
        ("a\x1b[2J\u202eb.mp4", "a[2Jb.mp4"),
        ("..", "download"),
        ("", "download"),
    ],
)
def test_name_that_a_server_tells_is_a_plain_one_that_is_free(tmp_path: Path, told: str, name: str) -> None:
    (tmp_path / "talk.mp4").write_text("of an earlier run")
    assert free_name(tmp_path, told) == tmp_path / name


async def test_download_goes_on_where_its_connection_broke(server: Server, tmp_path: Path) -> None:
    async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
        made = (await client.speak(LONG, audio_format="none"))["fish"]
        content = Path(made).read_bytes()
        lost = proxy.lose(content[2_000_000:2_000_016], cut=True)
        reports: list[int] = []
        target = await client.download(made, tmp_path, lambda done, total: reports.append(done))
        assert lost.is_set()
        assert target.read_bytes() == content
        assert reports == sorted(reports)  # nothing was fetched twice
        assert reports[-1] == len(content)


def test_sync_client_downloads_cancels_and_asks_for_health(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, gated=True) as script, Client(server.url) as client:
        made = client.speak(WORDS[0])["fish"]
        assert client.download(made, tmp_path).read_bytes() == Path(made).read_bytes()
        job = client.submit("whisp", file=client.upload(script.path))
        assert client.cancel(job.id)
        assert not client.cancel(job.id)
        assert client.health()["status"] == "healthy"


# A server that is asked too often.


async def test_who_asks_too_often_waits_as_the_server_says(tmp_path: Path) -> None:
    """A burst of ten, then one a second: what is beyond is answered too, a little later."""
    server = Server(tmp_path, REQUESTS_PER_SECOND="1", WORKERS_PATH=str(TOYS), MEDIA_ROOTS=str(tmp_path))
    with server:
        async with AsyncClient(server.url, patience=0) as hasty, AsyncClient(server.url) as patient:
            answers = await asyncio.gather(*(hasty.jobs() for _ in range(20)), return_exceptions=True)
            assert all(refused_for_a_while(answer) for answer in answers if answer != [])
            assert any(map(refused_for_a_while, answers))
            assert await patient.jobs() == []
            assert await patient.upload(b"a file")
            files = (patient.upload(io.BytesIO(b"it can be read once")) for _ in range(20))
            assert any(map(refused_for_a_while, await asyncio.gather(*files, return_exceptions=True)))


def refused_for_a_while(answer: object) -> bool:
    return isinstance(answer, OptivusError) and answer.code == "RATE_LIMITED" and answer.retry_after is not None
