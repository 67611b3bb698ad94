"""Logs: a job's life can be read in them, and nobody's words, secrets or local variables can (promise P14)."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import Client, OptivusError
from config import secrets
from contract import known_secrets, logs
from contract.log_writer import MAX_LINES, LogWriter
from tests.leaks import LEAKY, ODD_PASSWORD, SETTINGS, VARIANTS, WatchedServer, leaks, log_of_all_that_fails
from tests.servers import Server


@pytest.mark.parametrize("variant", VARIANTS[1:])
async def test_no_error_path_writes_what_is_not_the_operators(variant: str, tmp_path: Path) -> None:
    log, token = await log_of_all_that_fails(tmp_path, variant)
    assert not leaks(log, tmp_path, token)
    unreadable = [line for line in log.splitlines() if "request_unreadable" in line]
    assert unreadable
    assert not [line for line in unreadable if "Traceback" in line or '"exception"' in line]
    for event in ("task_failed", "batch_failed", "uncaught", "library", "result_not_kept", "load_failed"):
        assert event in log, f"no path led to {event}"
    assert "libneeded.so.12" in log, "a failure to load concerns the operator, who needs to know of what"
    assert "leaky.py" in log, "frames say where"
    assert "cannot do" in log


class TestALifeInLines:
    """LOG_LEVEL=info."""

    def lives(self, lines: list[str]) -> list[dict[str, Any]]:
        events = ("accepted", "done", "failed", "cancelled")
        return [line for line in map(json.loads, lines) if line["event"] in events]

    def test_each_job_begins_and_ends_in_a_line(self, tmp_path: Path) -> None:
        with WatchedServer(tmp_path, WORKERS_PATH=str(LEAKY)) as server, Client(server.url) as client:
            done = client.submit("leaky", how="well", text="x")
            done.result()
            failed = client.submit("leaky", how="plain", text="x")
            with pytest.raises(OptivusError):
                failed.result()
            log = server.whole_log()
        lines = self.lives(log.splitlines())
        assert [(line["event"], line["job"], line["type"]) for line in lines] == [
            ("accepted", done.id, "leaky"),
            ("done", done.id, "leaky"),
            ("accepted", failed.id, "leaky"),
            ("failed", failed.id, "leaky"),
        ]
        assert [line.get("code") for line in lines] == [None, None, None, "INTERNAL"]
        assert all(line["seconds"] >= 0 for line in lines if line["event"] != "accepted")
        (reason,) = [line for line in map(json.loads, log.splitlines()) if line["event"] == "task_failed"]
        assert (reason["job"], reason["level"], reason["worker"]) == (failed.id, "error", "leaky")
        assert reason["exception"][0]["frames"][-1]["name"] == "plain"

    def test_on_a_terminal_it_is_text_with_the_time_of_day(self, tmp_path: Path) -> None:
        with (
            WatchedServer(tmp_path, terminal=True, WORKERS_PATH=str(LEAKY)) as server,
            Client(server.url) as client,
        ):
            job = client.submit("leaky", how="plain", text="x")
            with pytest.raises(OptivusError):
                job.result()
            log = re.sub(r"\x1b\[[0-9;]*m", "", server.whole_log())
        assert re.search(rf"^\d\d:\d\d:\d\d \[info +\] accepted +job={job.id} type=leaky\r?$", log, re.MULTILINE)
        assert re.search(rf"^\d\d:\d\d:\d\d \[error +\] task_failed +job={job.id} worker=leaky\r?$", log, re.MULTILINE)
        assert re.search(r"^    \S+leaky\.py:\d+ in plain\r?\nRuntimeError: cannot do x\r?$", log, re.MULTILINE)
        assert re.search(rf"failed +code=INTERNAL job={job.id} seconds=[\d.]+ type=leaky", log)


def line_of(exc: BaseException, request: Any, **facts: Any) -> str:
    """The JSON line of an exception in a task with such a request."""
    facts |= {"event": "task_failed", "exc_info": exc}
    with logs.about("job_1", request):
        for process in logs.processors(terminal=False):
            facts = process(None, "error", facts)  # type: ignore[assignment]
    return facts.decode()  # type: ignore[attr-defined,no-any-return]


words = st.text(st.characters(categories=["L", "N"]), min_size=logs.MIN_WORD, max_size=30).map("qzx".__add__)


@given(st.lists(words, min_size=1, max_size=5), st.sampled_from([str, repr, str.upper, str.title]), st.data())
def test_no_word_of_a_request_survives_in_an_exceptions_text(said: list[str], form: Any, data: Any) -> None:
    text = " ".join(said)
    shown = form(data.draw(st.sampled_from([text, text[len(said[0]) :], *said])))
    line = line_of(RuntimeError(f"no way to go on with {shown}, sadly"), {"params": [{"text": text}]})
    assert json.loads(line)["exception"][0]["exc_value"].startswith("no way to go on with ")
    left = set(re.findall(r"\w+", json.loads(line)["exception"][0]["exc_value"].casefold()))
    assert not {word for word in left if "qzx" in word}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://h.example/a?token=1&b=2#c it failed", "at https://h.example/a?… it failed"),
        ("proxy http://me:pa:ss@h.example:80/x", "proxy http://…@h.example:80/x"),
        ("proxy me:pass@h.example:80", "proxy …@h.example:80"),
        ("GET /jobs?token=abc HTTP", "GET /jobs?… HTTP"),
        ("GET /jobs?abc HTTP", "GET /jobs?… HTTP"),
        ("proxy http://me:pa'ss\"word@h.example:80/x", "proxy http://…@h.example:80/x"),
        ("at https://h.example/a?q='abc'&b=\"c\" it failed", "at https://h.example/a?… it failed"),
        ("at https://h.example/a;session=abc it failed", "at https://h.example/a?… it failed"),
        ("header Bearer abc.def-g", "header Bearer …"),
        ("token eyJhbGciOi.eyJjbGllbnQ.x-y_z here", "token … here"),
        ("12:30:01 what? nothing", "12:30:01 what? nothing"),
    ],
)
def test_secrets_of_known_forms_are_taken_out_of_every_text(text: str, shown: str) -> None:
    assert logs.without_secrets(text) == shown


FORMS: dict[str, Callable[[str], Any]] = {
    "itself": str,
    "in Python": lambda secret: repr([secret]),
    "in JSON": json.dumps,
    "in a URL": urllib.parse.quote,
    "in a form": lambda secret: urllib.parse.urlencode({"x": secret}).removeprefix("x="),
    "in a header": lambda secret: base64.b64encode(secret.encode()).decode(),
    "in other letters": str.upper,
    "in fields in fields": lambda secret: {"a": [{secret: (secret,)}]},
    "in an object": lambda secret: Path("/x") / f"{secret}.txt",
    "in bytes": str.encode,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", ["hullaballoo", ODD_PASSWORD, "pass wörd"])
def test_a_known_secret_is_taken_out_in_every_form_and_field(form: str, secret: str) -> None:
    known_secrets.hide([secret])
    shown = FORMS[form](secret)
    for name, line in (("url", {"url": shown}), ("error", {"error": shown}), ("any", {"any": [shown]})):
        for terminal in (False, True):
            facts: Any = {"event": "something", **line}
            for process in logs.processors(terminal):
                facts = process(None, "error", facts)
            written = facts.decode().casefold()
            assert secret.casefold() not in written, name
            assert not [part for part in re.findall(r"\w{5,}", secret.casefold()) if part in written]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DLP_PROXY", "http://me:hullaballoo@h.example:1", {"hullaballoo", "me:hullaballoo"}),
        ("ALL_PROXY", "me:hullaballoo@h.example:1", {"hullaballoo", "me:hullaballoo"}),
        ("HF_TOKEN", "hullaballoo", {"hullaballoo"}),
        ("AWS_SECRET_ACCESS_KEY", "hullaballoo", {"hullaballoo"}),
        ("TOKENIZERS_PARALLELISM", "falsefalse", set()),
        ("HF_TOKEN", "no", set()),
        ("GIT_URL", "https://hullaballoo@h.example/x", {"hullaballoo"}),
        ("DOCKER_HOST", "ssh://git@h.example", set()),
        ("MAILTO", "root@h.example", set()),
        ("PATH", "/opt/node@18/bin:/opt/python@3/bin", set()),
        ("PATH", "/usr/bin", set()),
    ],
)
def test_secrets_are_known_by_the_name_of_their_variable_or_by_a_url(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: set[str]
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # which holds the value
    before = set(secrets())
    monkeypatch.setenv(name, value)
    assert set(secrets()) - before == expected


def test_a_secret_that_is_a_word_is_hidden_where_it_stands_alone() -> None:
    known_secrets.hide(["sesame"])
    assert logs.without_secrets("sesame, 'Sesame' sesames open_sesame") == "…, '…' sesames open_sesame"


def test_a_refused_settings_password_is_not_shown(tmp_path: Path) -> None:
    for proxy in (f"ftp://me:{SETTINGS[0]}@h.example", f"me:{SETTINGS[0]}@h.example:1"):
        with pytest.raises(RuntimeError, match="DLP_PROXY") as refused:
            Server(tmp_path, DLP_PROXY=proxy).start()
        assert SETTINGS[0] not in str(refused.value)


def test_names_of_code_and_libraries_stay_readable() -> None:
    line = line_of(AttributeError("'NoneType' object has no attribute 'shape'"), {"text": "hello"})
    assert "'NoneType' object has no attribute 'shape'" in line


def test_a_log_that_nobody_reads_holds_up_no_job(tmp_path: Path) -> None:
    """A pipe takes 64 KiB; these lines are more."""
    server = WatchedServer(tmp_path, WORKERS_PATH=str(LEAKY), MAX_OPEN_JOBS_PER_CLIENT="500")
    server.pause_after_start()
    with server, Client(server.url) as client:
        jobs = [client.submit("leaky", how="well", text="x") for _ in range(500)]
        assert [job.result()["leaky"] for job in jobs] == [[1, 1]] * 500
        log = server.whole_log()
    assert log.count('"accepted"') == log.count('"done"') == 500


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_beyond_what_may_wait_are_counted_and_not_kept(blocking: bool) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, blocking)
    writer = LogWriter(theirs)
    line = b"x" * 99 + b"\n"
    for _ in range(3 * MAX_LINES):
        writer.write(line)
    kept = dropped = 0
    with os.fdopen(ours, "rb") as file:
        while kept + dropped < 3 * MAX_LINES:
            read = file.readline()
            if read == line:
                kept += 1
            else:
                dropped += json.loads(read)["count"]
    writer.close()
    os.close(theirs)
    assert kept + dropped == 3 * MAX_LINES
    assert kept >= MAX_LINES
    assert dropped > 0
