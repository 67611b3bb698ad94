"""Starting the server: what stands behind its name on the command line, and settings that nobody would read."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from socket import create_server

import pytest
from pydantic import ValidationError

from config import Settings, variables
from contract.spelling import meant
from gateway.auth import Credentials, Tokens
from storage.ledger import Unusable
from tests.servers import ROOT, Server
from tests.shipped import SHIPPED

VARIABLES = variables(SHIPPED)
KNOWN = [variable.name for variable in VARIABLES]


def started_with(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A server that should not come up; its port would be taken if it did."""
    command = [sys.executable, str(ROOT / "server.py"), *arguments]
    env = {**os.environ, "PORT": "1", **settings}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_help_names_every_variable_with_its_meaning() -> None:
    shown = started_with("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for name, default, meaning in VARIABLES:
        assert (f"  {name}={default}\n" if default else f"  {name}\n") in shown.stdout
        assert meaning.replace("`", "").split()[0] in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 120


def test_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert started_with("--version").stdout == f"optivus {project['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "9"], "PORT=9 python server.py"),
        (["--port=9"], "PORT=9 python server.py"),
        (["PORT=9"], "PORT=9 python server.py"),
        (["--whisper-model", "base"], "AI_WHISPER_MODEL=base python server.py"),
        (["--dlp-proxy", "http://me:hullaballoo@h.example:1"], "DLP_PROXY=http://…@h.example:1 python server.py"),
        (["--verbose"], "settings are environment variables, which --help lists"),
        (["start"], "server.py has no argument start"),
        (["--vers"], "server.py has no argument --vers"),
    ],
)
def test_what_the_command_does_not_know_is_refused_with_what_to_write(arguments: list[str], sentence: str) -> None:
    refused = started_with(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert sentence in refused.stderr
    assert "hullaballoo" not in refused.stderr


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("PORT=many", "it should be a valid integer."),
        ("LOG_LEVEL=loud", "it should be 'debug', 'info', 'warning' or 'error'."),
        ("MAX_UPLOAD_GB=inf", "it should be a finite number."),
        ("MAX_UPLOAD_GB=1e300", "it should be less than or equal to 1000000."),
        ("RETENTION_HOURS=nan", "it should be a finite number."),
        ("WHISPER_STEP_SECONDS=inf", "it should be a finite number."),
        ("DATA_DIR=", "it should name a folder; without the variable the server takes its default."),
        ("VOICES_DIR= ", "it should name a folder; without the variable the server takes its default."),
        ("WHISPER_DEVICE=potato", "it should be auto, cpu, cuda or cuda:N."),
        ("WHISPER_DEVICE=gpu", "it should be auto, cpu, cuda or cuda:N."),
        ("FLORENCE_DEVICE=cuda:x", "it should be auto, cpu, cuda or cuda:N."),
    ],
)
def test_a_wrong_setting_is_said_at_the_start_in_plain_words(setting: str, reason: str) -> None:
    name, _, value = setting.partition("=")
    refused = started_with(**{name: value})
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"optivus: {name}={value!r} cannot be used: {reason}\n"


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = started_with(HOST="127.0.0.1", PORT=port, DATA_DIR=str(tmp_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith(
        f"optivus: HOST=127.0.0.1 PORT={port} cannot be used: Address already in use; set another PORT.\n"
    )


def test_the_address_in_the_log_can_be_opened(tmp_path: Path) -> None:
    with Server(tmp_path, HOST="0.0.0.0") as server:
        (started,) = [json.loads(line) for line in server.log if '"listening"' in line]
    assert started["url"] == f"http://localhost:{server.port}"


def test_a_setting_that_nobody_reads_is_named_at_the_start_with_what_it_may_be(tmp_path: Path) -> None:
    wrong = {"WHISPER_MODEL": "hullaballoo", "CORS_ORIGIN": "https://a.example", "whisper_device": "cpu"}
    of_others = {
        "FISH_VERSION": "3.7",
        "HOSTNAME": "here",
        "HF_HOME": "/x",
        "AI_GATEWAY_KEY": "x",
        "drain_seconds": "1",
    }
    with Server(tmp_path, **wrong, **of_others) as server:
        lines = [json.loads(line) for line in server.log]
    said = {line["name"]: line["perhaps_meant"] for line in lines if line["event"] == "unknown_setting"}
    expected = {"WHISPER_MODEL": "AI_WHISPER_MODEL", "CORS_ORIGIN": "CORS_ORIGINS", "whisper_device": "WHISPER_DEVICE"}
    assert {name: said.get(name) for name in expected} == expected
    assert not said.keys() & of_others.keys()
    assert "hullaballoo" not in str(lines)


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("FISH_DEVCE", "FISH_DEVICE"),
        ("DATADIR", "DATA_DIR"),
        ("WHISPER_BATCH", "AI_WHISPER_BATCH_WORKER"),
        ("DLP_HTTP_PROXY", "DLP_PROXY"),
        ("FISH_BATCH_SIZE", "FISH_BATCH"),
        ("MAX_UPLOAD_MB", "MAX_UPLOAD_GB"),
        ("MODEL_WHISPER_AI", "AI_WHISPER_MODEL"),
        ("PATH", None),
        ("HTTP_PROXY", None),
        ("JUPYTER_DATA_DIR", None),
        ("LD_LIBRARY_PATH", None),
        ("LANG", None),
        ("HOST_PORT", None),
    ],
)
def test_names_are_suspected_when_they_are_like_ours(name: str, likely: str | None) -> None:
    assert next(iter(meant(name, KNOWN)), None) == likely


def test_origins_are_read_as_browsers_send_them() -> None:
    written = "https://A.example/, http://b:80, https://bücher.example:8443, *, null, chrome-extension://abc"
    assert Settings(cors_origins=written).cors_origins == (
        "https://a.example",
        "http://b",
        "https://xn--bcher-kva.example:8443",
        "*",
        "null",
        "chrome-extension://abc",
    )


@pytest.mark.parametrize(
    ("written", "likely"),
    [
        ("a.example", "https://a.example"),
        ("a.example:8080", "https://a.example:8080"),
        ("//a.example/", "https://a.example"),
        ("https://a.example/path", "https://a.example"),
        ("https://b.example,a.example", "https://a.example"),
        ("https://a.example https://b.example", "https://a.example"),
    ],
)
def test_what_is_no_origin_is_refused_with_one(written: str, likely: str) -> None:
    with pytest.raises(ValidationError, match=f"like {likely}\\b"):
        Settings(cors_origins=written)


def test_an_origin_with_a_star_in_it_would_match_nothing_and_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"\* alone stands for all"):
        Settings(cors_origins="https://*.example")


@pytest.mark.parametrize("written", ["https://a.example", "*.a.example", "a.example/", "a.example b.example"])
def test_what_is_no_host_would_match_nothing_and_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match=r"one name like media\.example"):
        Settings(allowed_hosts=written)


def test_hosts_are_names_addresses_or_a_star() -> None:
    assert Settings(allowed_hosts="a.example:8080, [::1], *").allowed_hosts == ("a.example:8080", "[::1]", "*")


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = started_with(DATA_DIR=str(tmp_path / "file" / "data"))
    assert refused.returncode == 2
    assert refused.stderr == (
        f"optivus: DATA_DIR={tmp_path / 'file' / 'data'} cannot be used: {tmp_path / 'file'} is not a folder; "
        "name another, or move that away.\n"
    )


@pytest.mark.parametrize("left", [b"", b"half a key", None])
def test_a_key_whose_writing_was_cut_short_is_made_anew(
    tmp_path: Path, left: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a full disk, say; `left`: what the file holds, None without a file."""
    path = tmp_path / "secret.key"
    if left is not None:
        path.write_bytes(left)
    else:
        with monkeypatch.context() as broken, pytest.raises(Unusable, match=r"secret\.key cannot be used"):
            broken.setattr(os, "fsync", _full)
            Tokens.stored(path)
    tokens = Tokens.stored(path)
    who = tokens.identity(Credentials(None, None))
    assert who is not None
    again = Tokens.stored(path).identity(Credentials(tokens.issue(who), None))
    assert again is not None
    assert again.client == who.client
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "the disk is full")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "x" * 300, "a b"])
def test_a_host_that_is_not_this_machines_is_what_is_blamed(tmp_path: Path, host: str) -> None:
    refused = started_with(HOST=host, DATA_DIR=str(tmp_path))
    assert refused.returncode == 2
    assert f"optivus: HOST={host} cannot be used: it is no address or name of this machine" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("place", ["DATA_DIR", "VOICES_DIR", "FS_PATH", "PATH_VIDEO", "DATA_DIR/uploads"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path, place: str) -> None:
    variable, _, below = place.partition("/")
    path = tmp_path / variable.lower() / below
    path.parent.mkdir(exist_ok=True)
    path.touch()
    refused = started_with(**{"DATA_DIR": str(tmp_path / "data"), variable: str(tmp_path / variable.lower())})
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"optivus: {variable}=")
    assert f"{path} is not a folder" in refused.stderr


def test_a_folder_that_may_only_be_read_is_named(tmp_path: Path) -> None:
    """A mount, so that root is kept out as well."""
    inside = (
        f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec {sys.executable} server.py"
    )
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside]
    if subprocess.run([*command[:3], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    env = {**os.environ, "DATA_DIR": str(tmp_path / "data"), "PORT": "1"}
    refused = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"optivus: DATA_DIR={tmp_path / 'data'} cannot be used: the server may not write")
