"""The pages: what a browser is told about them, and that they work under it; what is no HTTP gets a typed answer."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.page import DOCS, INDEX
from tests.servers import Server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOST = b"Host: localhost\r\n"
JOB = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
FORM = b"POST /files HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data; boundary=b\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("pages"), AI_WHISPER_MODEL="none", STALL_SECONDS="0.5") as server:
        yield server


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_nothing_but_its_own_script_and_is_shown_in_no_frame(server: Server, path: str) -> None:
    with urllib.request.urlopen(server.url + path, timeout=20) as answer:
        headers = answer.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy["style-src"])
    assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & set(
        re.split(r"[ ']", " ".join(policy.values()))
    )
    assert (headers["Referrer-Policy"], headers["X-Content-Type-Options"]) == ("no-referrer", "nosniff")


@pytest.mark.parametrize("page", [INDEX, DOCS], ids=lambda page: page.name)
def test_a_page_has_nothing_that_its_policy_would_stop(page: Path) -> None:
    html = page.read_text()
    assert not re.findall(r"<[^>]*\s(?:on\w+|style)\s*=", html)
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=\"(?!data:)", html)
    assert not re.findall(r"\beval\(|new Function|javascript:|setAttribute\(\"style|innerHTML", html)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize(("path", "works"), [("/", "version 0."), ("/docs", "POST /jobs")])
def test_a_browser_stops_nothing_of_a_page(server: Server, tmp_path: Path, path: str, works: str) -> None:
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", server.url + path]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert works in re.sub(r"<script>.*</script>", "", shown.stdout, flags=re.DOTALL)
    assert "Content Security Policy" not in shown.stderr


@pytest.mark.parametrize(
    "request_bytes",
    [
        JOB + b"Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
        JOB + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        JOB + b"Content-Encoding: zstd\r\nContent-Length: 3\r\n\r\nabc",
        JOB + b"Content-Length: -5\r\n\r\n",
        JOB + b"Content-Length: 100\r\n\r\n{",
        JOB + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n",
        FORM + b"Content-Length: 9000000\r\n\r\n--b\r\n" + b"X-A: b\r\n" * 100_000,
        FORM + b"Content-Length: 9000000\r\n\r\n--b\r\nX-A: " + b"b" * 1_000_000,
        b"GET http://[::1/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /health HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=lambda request: repr(request[-40:]),
)
def test_what_cannot_be_read_gets_a_typed_answer_and_the_connection_ends(server: Server, request_bytes: bytes) -> None:
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        try:
            sock.sendall(request_bytes)
            while piece := sock.recv(4096):
                answer += piece
        except ConnectionError:
            """It ends before all was sent."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["error_code"] == "INVALID_INPUT"
