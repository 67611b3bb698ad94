"""`optivus listen`: what the microphone hears, growing on a terminal, whole lines elsewhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.servers import Server
from tests.test_cli import Terminal, optivus
from tests.test_client_listen import SOUND


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "sound"
    path.write_bytes(SOUND)
    return path


def recorder(folder: Path, script: str) -> str:
    """A PATH whose `parec` does what `script` says."""
    program = folder / "bin" / "parec"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def test_text_grows_on_a_terminal_until_ctrl_c(url: str, recording: Path, tmp_path: Path) -> None:
    path = recorder(tmp_path, f"cat {recording}; exec tail -f /dev/null")
    terminal = Terminal("listen", "--server", url, "--language", "en", PATH=path)
    terminal.until("\x1b[K")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
    assert "Listening" in terminal.shown
    assert terminal.shown.count("\x1b[K") >= 2
    assert terminal.shown.endswith("\n")


def test_elsewhere_final_lines_alone_are_written(url: str, recording: Path, tmp_path: Path) -> None:
    done = optivus("listen", "--server", url, "--language", "en", PATH=recorder(tmp_path, f"cat {recording}"))
    assert (done.returncode, done.stdout.count("\n") >= 1, "\x1b" in done.stdout) == (0, True, False)


def test_a_recorder_that_fails_or_is_missing_is_said(url: str, tmp_path: Path) -> None:
    failed = optivus("listen", "--server", url, PATH=recorder(tmp_path, "exit 3"))
    assert (failed.returncode, "status 3" in failed.stderr) == (1, True)
    missing = optivus("listen", "--server", url, PATH=str(tmp_path))
    assert (missing.returncode, "parec, arecord" in missing.stderr) == (1, True)


def test_what_the_server_refuses_is_said(contract_server: Server, recording: Path, tmp_path: Path) -> None:
    path = recorder(tmp_path, f"cat {recording}")
    refused = optivus("listen", "--server", contract_server.url, "--language", "tlh", PATH=path)
    assert (refused.returncode, "language" in refused.stderr) == (1, True)
    assert "Traceback" not in refused.stderr
