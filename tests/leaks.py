"""A server with secrets in all its settings, what makes it write a line, and what no line may hold (promise P14)."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import jwt

from client import Client, OptivusError
from tests.leaky_workers.leaky import WAYS
from tests.peers import Peer, Raw
from tests.servers import ROOT, STARTED, Server
from tests.sites import Site

LEAKY = Path(__file__).parent / "leaky_workers"

SECRET = "Quizzaciously, overmorrow: “bumfuzzled” widdershins"
MARKS = ["quizzacious", "overmorrow", "bumfuzzled", "widdershins", "zaciously"]
"""What no line may hold of what users send."""
SETTINGS = ["hullaballoo", "gobbledegook", "collywobbles", "flibbertigibbet"]
"""The proxy's password and a cookie; a token and another proxy, which libraries read from the environment."""
ODD_PASSWORD = "hulla'baLL\"oo%40%20@;?/"
"""Of a proxy, with all that an expression for URLs might stop at."""
QUERY = "sesquipedalian"


class WatchedServer(Server):
    """Keeps all that is written to both standard streams. terminal: to a pseudo-terminal, as people see it."""

    def __init__(self, folder: Path, terminal: bool = False, **settings: str) -> None:
        super().__init__(folder, **settings)
        self._terminal = terminal
        self._listening = threading.Event()
        self._read = threading.Thread(target=self._keep, daemon=True)
        self._may_read = threading.Event()
        self._may_read.set()

    def pause_after_start(self) -> None:
        """Read no further than to where it listens, until `whole_log`."""
        self._may_read.clear()

    def start(self) -> None:
        ours, theirs = pty.openpty() if self._terminal else os.pipe()
        command = [sys.executable, str(ROOT / "server.py")]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **self.settings}, stdout=theirs, stderr=theirs, text=True
        )
        os.close(theirs)
        self._output = os.fdopen(ours, errors="replace")
        self._read.start()
        assert self._listening.wait(60), self.log

    def _keep(self) -> None:
        try:
            for line in self._output:
                self.log.append(line)
                if STARTED in line and (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)):
                    self.port = int(found[1])
                    self._listening.set()
                    self._may_read.wait()
        except OSError:
            """A terminal's way to say that nobody writes to it any more."""

    def whole_log(self) -> str:
        """Everything, once the server and its workers have ended."""
        self._may_read.set()
        self.stop()
        self._read.join(30)
        return "".join(self.log)


VARIANTS = ("piped", "terminal", "odd")
"""To a pipe; to a terminal, with a proxy that has a password; with a password that no expression for URLs expects."""


def planted(folder: Path, variant: str) -> WatchedServer:
    """One that has a secret in each of its settings. folder: its own, with cookies and a media root."""
    cookies = folder / "cookies.txt"
    cookies.write_text(f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tname\t{SETTINGS[1]}\n")
    (folder / "media").mkdir()
    settings = {
        "WORKERS_PATH": str(LEAKY),
        "MEDIA_ROOTS": str(folder / "media"),
        "LOG_LEVEL": "debug",
        "DLP_ALLOW_PRIVATE": "1",
        "DLP_COOKIES": str(cookies),
        "DLP_RETRY_SECONDS": "0",
        "HF_TOKEN": SETTINGS[2],
        "http_proxy": f"http://somebody:{SETTINGS[3]}@127.0.0.1:1",
        "no_proxy": "127.0.0.1,localhost",
    }
    if variant == "terminal":
        settings["DLP_PROXY"] = f"http://somebody:{SETTINGS[0]}@127.0.0.1:1"
    if variant == "odd":
        password = urllib.parse.quote(ODD_PASSWORD, safe="")
        settings["DLP_PROXY"] = f"socks5h://somebody:{password}@127.0.0.1:1"
    return WatchedServer(folder, terminal=variant == "terminal", **settings)


def http(server: Server, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
    """A request whose answer does not matter."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, body, named, method=method)
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as exc:
        exc.close()


def raw_http(server: Server, head: bytes) -> None:
    """A request of whatever bytes, until the server has answered it or given up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head + b"\r\nConnection: close\r\n\r\n")
        while sock.recv(4096):
            continue


def misuse_http(server: Server, token: str) -> None:
    escaped = urllib.request.quote(SECRET)  # type: ignore[attr-defined]
    word = MARKS[0].encode()
    forged = jwt.encode({"client": SECRET}, "quizzaciously" * 4, algorithm="HS256")
    for authorization in (SECRET.encode().hex(), f"Bearer {forged}", "Bearer overmorrow", "Basic b3Zlcm1vcnJvdw=="):
        http(server, "GET", f"/jobs/{escaped}?q={QUERY}", Authorization=authorization)
    for body in (SECRET.encode(), b"[]", json.dumps({"type": SECRET, SECRET: SECRET}).encode(), b"\xff" + word):
        http(server, "POST", f"/jobs?token={QUERY}", body, Content_Type="application/json")
        http(server, "POST", "/files", body, Content_Type=f"multipart/form-data; boundary={MARKS[1]}")
    for path in (f"/{escaped}", f"/files/{escaped}", f"/jobs/{escaped}/events", f"/voices/{escaped}"):
        http(server, "DELETE", path, Authorization=f"Bearer {token}")
    http(server, "GET", "/health", Origin="http://overmorrow.example", Cookie=QUERY)
    for head in (
        b"GET /jobs/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer caf\xe9 " + word,
        b"GET /jobs/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token.encode() + b"\xff",
        b"GET /voices HTTP/1.1\r\nHost: x\r\nX-" + word + b"\x00: " + word,
        b"GET /" + word + b"\xff?q=" + word + b" HTTP/1.1\r\nHost: " + word + b"\xfe",
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: " + word,
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\nContent-Length: 11\r\n\r\n" + word,
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + word,
        b"GET http://[::1/" + word + b" HTTP/1.1\r\nHost: x",
        b"CONNECT " + word + b":99999999 HTTP/1.1\r\nHost: x",
        word + b" /" + word,
    ):
        raw_http(server, head)


async def misuse_sockets(server: Server, token: str) -> None:
    """Whatever must end with an answer, a refusal or the end of the connection."""
    async with Peer(server.url, token) as peer:
        for message in (SECRET, [SECRET], {"type": SECRET}, {"type": "leaky", "text": [SECRET]}, {"type": "cancel"}):
            assert (await peer.ask(message))["status"] == "error"
        await peer.ask({"type": "cancel", "job_id": SECRET})
        await peer.ask({"type": "delete_voice", "reference_id": SECRET})
        await peer.ask({"type": "whisp", "file": f"/{SECRET}"})
        await peer.ask({"job_id": SECRET, "audio": SECRET}, event="audio")
        await peer.ask({}, event=SECRET)
    for packet in (
        f'42["message",{{"type":NaN,"{MARKS[0]}":1}}]',
        f"4x{MARKS[0]}",
        f'42{{"{MARKS[1]}',
    ):
        async with Raw(server.url, token) as raw:
            await raw.say(packet)
            await raw.is_alive()


def run_every_failing_job(server: Server, site: Site, client: Client) -> None:
    jobs = [client.submit("leaky", how=how, text=SECRET) for how in (*WAYS, "result", "forward")]
    jobs += [client.submit("leaky_async", how=how, text=SECRET) for how in WAYS if how != "crash"]
    jobs += [client.submit("leaky", how="crash", text=SECRET), client.submit("leaky_load", how="well", text=SECRET)]
    query = f"?token={QUERY}&name={QUERY}"
    pages = ("/missing.mp4", "/down.mp4", "/html", "/locked")
    jobs += [
        client.submit("dlp", urls=[site.url(page + query) for page in pages]),
        client.submit("dlp", urls=[f"http://{SETTINGS[0]}:overmorrow@127.0.0.1:1/x{query}"]),
    ]
    for job in jobs:
        try:
            job.result()
        except OptivusError:
            """Most of them should fail, and which do is not what is tested here."""


def leaks(log: str, folder: Path, token: str) -> set[str]:
    """What a log holds of what it may not: secrets, words of users, values of local variables."""
    key = (folder / "data_dir" / "secret.key").read_bytes()
    keys = {key.hex(), repr(key)[2:-1], repr(key)[2:18], base64.b64encode(key).decode()}
    words = {*MARKS, *SETTINGS, *re.findall(r"[a-z]{5,}", ODD_PASSWORD.lower())}
    words |= {QUERY, "localmarker", token, token[:40]}
    return {word for word in words if word in log.lower()} | {each for each in keys if each in log}


async def log_of_all_that_fails(folder: Path, variant: str) -> tuple[str, str]:
    """What such a server wrote while everything was done to it that fails, and the token of a client."""
    with planted(folder, variant) as server:
        with Site(folder / "site") as site, Client(server.url) as client:
            token = client.token or ""
            misuse_http(server, token)
            await misuse_sockets(server, token)
            run_every_failing_job(server, site, client)
        return server.whole_log(), token
