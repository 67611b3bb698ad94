"""`optivus jobs`, `cancel` and `health`, and the one client that all commands of a user are."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client, WaitingFor
from client.events import job_info
from client.jobs import in_columns
from client.tokens import Tokens
from tests.asking import Optivus
from tests.scripts import Script, scripted_server
from tests.servers import ROOT, Server
from tests.sites import Site
from tests.test_cli import TEXT, WORDS, Terminal
from tests.test_cli import optivus as spawned

LOST = r"The server at http://\S+ no longer knows this client, and made it a new one; earlier jobs are gone\.\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def running(server: Server, tmp_path: Path) -> Iterator[Terminal]:
    """A transcription in another terminal, at its second word."""
    with Script(tmp_path, WORDS, gated=True) as script:
        terminal = Terminal("transcribe", "--server", server.url, script.path)
        script.open(1)
        terminal.until("ask\r\n")
        yield terminal
        script.open(3)
        if terminal.process.returncode is None:
            terminal.end()


def kept() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "optivus" / "tokens.json"


def test_jobs_of_other_terminals_are_listed_and_cancelled(optivus: Optivus, running: Terminal) -> None:
    status, shown, said = optivus("jobs")
    assert (status, said) == (0, "")
    head, line = shown.splitlines()
    assert head.split() == ["JOB", "TYPE", "STATE", "PROGRESS", "SINCE"]
    job, *about = line.split()
    assert about[:3] == ["whisp", "processing", "25%"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", " ".join(about[3:]))
    assert optivus("cancel", job) == (0, "", f"{job}: cancelled.\n")
    assert optivus("cancel", job) == (0, "", f"{job}: had ended already.\n")
    assert running.end() == 1
    assert running.lines[-1].endswith(": The job was cancelled.")
    [row] = [json.loads(line) for line in optivus("jobs", "--json")[1].splitlines()]
    assert (row["job_id"], row["state"]) == (job, "cancelled")


def test_all_jobs_are_cancelled(optivus: Optivus, running: Terminal, server: Server) -> None:
    status, shown, said = optivus("cancel", "--all")
    assert (status, shown, said.count("cancelled.\n")) == (0, "", 1)
    assert running.end() == 1
    assert optivus("cancel", "--all") == (0, "", f"Commands of this user have no job under way at {server.url}.\n")


def test_job_that_nobody_knows_is_a_failure(optivus: Optivus, server: Server) -> None:
    status, shown, said = optivus("cancel", "job_unknown")
    assert (status, shown, said.startswith("job_unknown: You have no job")) == (1, "", True)
    assert optivus("jobs") == (0, "", f"Commands of this user have no jobs at {server.url}.\n")


def test_signal_that_a_job_does_not_wait_for_is_a_failure(optivus: Optivus, running: Terminal) -> None:
    job = optivus("jobs")[1].splitlines()[1].split()[0]
    for data in ([], ['{"approved": true}']):
        assert optivus("signal", job, "review", *data) == (1, "", f"{job}: does not wait for review.\n")
    status, shown, said = optivus("signal", "job_unknown", "review")
    assert (status, shown, said.startswith("You have no job")) == (1, "", True)


def test_listed_job_says_what_it_waits_for() -> None:
    row = {"job_id": "job_1", "id": None, "type": "dub", "state": "waiting", "created_at": 0.0, "fraction": 0.5}
    waiting = job_info({**row, "waiting_for": {"name": "review", "since": 7.0}})
    assert waiting.waiting_for == WaitingFor("review", 7.0)
    assert in_columns(waiting)[1:4] == ("dub", "waiting", "waits for review")
    assert job_info({**row, "state": "processing"}).waiting_for is None


# The client that they are.


def test_token_is_kept_for_this_user_alone(optivus: Optivus, server: Server) -> None:
    assert optivus("jobs")[0] == 0
    assert stat.S_IMODE(kept().stat().st_mode) == 0o600
    assert stat.S_IMODE(kept().parent.stat().st_mode) == 0o700
    [(url, token)] = json.loads(kept().read_text()).items()
    assert url == server.url
    with Client(server.url) as first:
        job = first.submit("fish", text="Hello.")
        own = first.token
    assert own != token
    assert job.id not in optivus("jobs")[1]


def test_token_of_the_environment_goes_before(server: Server) -> None:
    with Client(server.url) as client:
        job = client.submit("fish", text="Hello.")
        assert client.token is not None
        assert job.id in spawned("jobs", "--server", server.url, OPTIVUS_TOKEN=client.token).stdout
    assert not kept().exists()


def test_file_of_tokens_that_is_none_is_replaced(optivus: Optivus, server: Server) -> None:
    kept().parent.mkdir(parents=True)
    for wrong in ("{", "[]", '{"http://other": 5}', ""):
        kept().write_text(wrong)
        assert optivus("jobs")[0] == 0
        assert list(json.loads(kept().read_text())) == [server.url]


def test_token_that_cannot_be_kept_is_told_and_the_work_done(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (no_folder := tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(no_folder))
    with Script(tmp_path, WORDS) as script:
        run = spawned("transcribe", "--server", server.url, script.path)
    assert (run.returncode, run.stdout) == (0, TEXT)
    assert run.stderr.startswith("Other commands will not see these jobs")
    assert run.stderr.count("\n") == 1


def test_server_that_lost_its_data_gives_a_new_token_and_it_is_said_once(tmp_path: Path) -> None:
    with scripted_server(tmp_path) as server, Script(tmp_path, WORDS) as script:
        command = ["transcribe", script.path]
        env = {"OPTIVUS_SERVER": server.url}
        assert spawned(*command, **env).stderr == ""
        before = json.loads(kept().read_text())[server.url]
        server.kill()
        shutil.rmtree(tmp_path / "data_dir")
        server.start()
        env = {"OPTIVUS_SERVER": server.url}
        kept().write_text(json.dumps({server.url: before}))  # the port may be another one now
        run = spawned(*command, **env)
        assert (run.returncode, run.stdout) == (0, TEXT)
        assert re.fullmatch(LOST, run.stderr)
        assert spawned(*command, **env).stderr == ""


def test_commands_that_begin_together_agree_on_one_client(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "state")
    agreed: list[str] = []
    begin = threading.Barrier(8)

    def keep(number: int) -> None:
        begin.wait()
        agreed.append(tokens.keep("http://host", f"token {number}", None))

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(agreed)) == 1
    assert tokens.of("http://host") == agreed[0]
    assert tokens.keep("http://host", "new", agreed[0]) == "new"
    assert tokens.keep("http://host", "late", agreed[0]) == "new"
    assert tokens.keep("http://other", "its own", None) == "its own"
    assert tokens.of("http://host") == "new"


def test_jobs_of_commands_that_begin_together_are_seen_by_all(optivus: Optivus, server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS) as script:
        command = [sys.executable, "-m", "client", "transcribe", "--server", server.url, str(script.path)]
        begun = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [process.wait(60) for process in begun] == [0] * 4
    assert optivus("jobs")[1].count("completed") == 4


# The server.


def test_health_is_told_in_a_few_lines(optivus: Optivus, server: Server) -> None:
    status, shown, said = optivus("health")
    assert (status, said) == (0, "")
    first, *workers = shown.splitlines()
    assert first.startswith(f"{server.url} is healthy: Optivus ")
    assert [line.split()[0] for line in workers] == sorted(json.loads(optivus("health", "--json")[1])["workers"])
    assert not kept().exists()


def test_server_that_is_not_there_or_not_one_is_unhealthy(tmp_path: Path) -> None:
    absent = spawned("health", "--server", "http://127.0.0.1:1")
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.startswith("No Optivus server answers at http://127.0.0.1:1;")
    for command in (["health"], ["jobs"], ["transcribe", "talk.mp3"], ["describe", "photo.png"]):
        wrong = spawned(*command, "--server", "http://[::1")
        assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    with Site(tmp_path) as site:
        other = spawned("health", "--server", site.url(""))
    assert (other.returncode, other.stdout, "404" in other.stderr) == (1, "", True)
