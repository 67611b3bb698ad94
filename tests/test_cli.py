"""The command `optivus`, in a process of its own, against a real server whose model follows a script."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts import Script, scripted_server
from tests.servers import Server

ROOT = Path(__file__).parent.parent
WORDS = ["ask", "not", "what", "your"]
TEXT = "ask\nnot\nwhat\nyour\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    with Script(tmp_path, WORDS) as script:
        yield script


def optivus(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return ran(["-m", "client", *map(str, args)], ROOT, env)


def ran(arguments: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **(env or {})}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)


class Terminal:
    """The command with a terminal of 100 columns as its standard output and error."""

    def __init__(self, *args: object) -> None:
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        command = [sys.executable, "-m", "client", *map(str, args)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=terminal, stderr=terminal, stdin=terminal)
        os.close(terminal)
        self.shown = ""

    def until(self, text: str) -> None:
        """Read until `text` has been shown, or the end."""
        while text not in self.shown:
            try:
                self.shown += os.read(self._screen, 1 << 16).decode(errors="replace")
            except OSError:  # EIO: the other side is closed
                return

    def end(self) -> int:
        """Read to the end. Returns the exit status."""
        self.until("\0")
        os.close(self._screen)
        return self.process.wait(60)

    @property
    def lines(self) -> list[str]:
        """What a person sees in the end: of each line only what was written last."""
        shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in self.shown.split("\n")]
        return [line for line in shown if line]


def test_transcript_alone_goes_to_standard_output(server: Server, script: Script) -> None:
    run = optivus("transcribe", "--server", server.url, script.path)
    assert (run.returncode, run.stdout, run.stderr) == (0, TEXT, "")


def test_failing_file_is_reported_and_the_others_go_on(server: Server, script: Script, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("no script")
    run = optivus("transcribe", "--server", server.url, tmp_path / "absent.mp3", bad, script.path)
    assert run.returncode == 1
    assert run.stdout == TEXT
    first, second = run.stderr.splitlines()
    assert first == f"{tmp_path}/absent.mp3: No such file or directory"
    assert second.startswith(f"{bad}: ")


def test_json_gives_the_whole_answer_of_each_file_in_a_line(server: Server, script: Script) -> None:
    run = optivus("transcribe", "--server", server.url, "--json", "--language", "es", script.path, script.path)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == [str(script.path)] * 2
    assert answers[0]["transcribe_audio"]["language"] == "es"
    assert answers[0]["transcribe_audio"]["chunks"][1] == {"start": 1.0, "end": 2.0, "text": " not"}


def test_output_file_gets_all_transcripts(server: Server, script: Script, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    out.write_text("of an earlier run")
    run = optivus("transcribe", "--server", server.url, "-o", out, script.path, script.path)
    assert (run.returncode, run.stdout) == (0, "")
    assert out.read_text() == TEXT + TEXT


def test_terminal_shows_the_text_once_as_it_comes_under_a_bar(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, gated=True) as script:
        terminal = Terminal("transcribe", "--server", server.url, script.path)
        script.open(1)
        terminal.until("ask\r\n")
        assert terminal.process.poll() is None
        script.open(3)
        assert terminal.end() == 0
    assert terminal.lines == WORDS
    assert re.search(r"25%\|█+.? +\| \d\d:\d\d, 00:03 left", terminal.shown)


def test_corrected_line_is_right_in_a_pipe_and_told_on_a_terminal(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, draft="axe") as script:
        assert optivus("transcribe", "--server", server.url, script.path).stdout == TEXT
        terminal = Terminal("transcribe", "--server", server.url, script.path)
        assert terminal.end() == 0
    *live, told = terminal.lines[: -len(WORDS)]
    assert live == ["axe", *WORDS[1:]]
    assert told == "The server has corrected lines that were already shown; the whole text again:"
    assert terminal.lines[-len(WORDS) :] == WORDS


def test_ctrl_c_cancels_the_job_on_the_server(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, gated=True) as script:
        terminal = Terminal("transcribe", "--server", server.url, script.path)
        script.open(1)
        terminal.until("ask\r\n")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert terminal.lines == ["ask", f"{script.path}: cancelled, on the server too."]
    with urllib.request.urlopen(f"{server.url}/metrics") as metrics:
        assert b'optivus_jobs_finished_total{state="cancelled",type="whisp"} 1.0' in metrics.read()


def test_absent_server_is_named() -> None:
    run = optivus("transcribe", "--server", "http://127.0.0.1:1", "talk.mp3")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("No Optivus server answers at http://127.0.0.1:1;")


@pytest.mark.parametrize("wrong", [[], ["transcribe"], ["transcribe", "-o", "/absent/out.txt", "talk.mp3"]])
def test_wrong_use_is_status_2(wrong: list[str]) -> None:
    assert optivus(*wrong).returncode == 2


def test_client_alone_needs_nothing_of_the_server(tmp_path: Path) -> None:
    """As installed on another machine: none of the server's packages can be imported, nor what they need."""
    shutil.copytree(ROOT / "client", tmp_path / "optivus")
    absent = ["config", "server", "pipeline", "workers", "gateway", "media", "pydantic", "structlog", "numpy"]
    hide = f"import runpy, sys; sys.modules.update(dict.fromkeys({absent}))"
    alone = ["-c", f"{hide}; runpy.run_module('optivus', run_name='__main__', alter_sys=True)"]
    assert ran([*alone, "--version"], tmp_path).stdout.startswith("optivus ")
    pull = ran([*alone, "models", "pull"], tmp_path)
    assert pull.returncode == 2
    assert re.fullmatch(r"`models pull` runs on the server's machine, .*\n", pull.stderr)


def test_model_that_cannot_be_had_is_status_1_with_what_to_do(tmp_path: Path) -> None:
    pull = optivus("models", "pull", AI_WHISPER_MODEL=str(tmp_path / "absent"), DATA_DIR=str(tmp_path))
    assert pull.returncode == 1
    assert "AI_WHISPER_MODEL" in pull.stderr
    assert "Traceback" not in pull.stderr


def test_wrong_setting_is_named_by_models_pull() -> None:
    pull = optivus("models", "pull", PORT="many")
    assert pull.returncode == 2
    assert pull.stderr.startswith("PORT='many' cannot be used")
