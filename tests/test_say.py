"""`optivus say` and `optivus voices`, in a process of their own, against a server whose voice is played."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.cli import main
from tests.scripts import scripted_server
from tests.servers import ROOT, Server
from tests.test_cli import Terminal, optivus
from tests.test_client_speech import RATE, WORDS, Gate, frames, sound_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def say(server: Server, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return optivus("say", "--server", server.url, *args, **env)


def player(folder: Path, script: str) -> str:
    """A PATH with one player on it that does what `script` says."""
    folder.mkdir()
    program = folder / "aplay"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(("ending", "begins"), [("MP3", b"ID3"), ("ogg", b"OggS")])
def test_ending_of_the_file_says_the_format(server: Server, tmp_path: Path, ending: str, begins: bytes) -> None:
    run = say(server, WORDS, "-o", tmp_path / f"out.{ending}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (tmp_path / f"out.{ending}").read_bytes().startswith(begins)


def test_text_comes_from_standard_input(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.pcm"
    command = [sys.executable, "-m", "client", "say", "--server", server.url, "-", "-o", str(out), "--seed", "3"]
    subprocess.run(command, cwd=ROOT, input=WORDS.encode(), check=True, timeout=60)
    assert out.read_bytes() == sound_of(WORDS, 3)
    wrong = subprocess.run(command, cwd=ROOT, input=b"\xff", check=False, timeout=60, capture_output=True)
    assert (wrong.returncode, b"UTF-8" in wrong.stderr) == (2, True)


def test_file_is_replaced_when_the_speech_is_there_and_not_before(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    out.write_text("of an earlier run")
    failed = say(server, WORDS, "-o", out, "--voice", "voice_of_nobody")
    assert failed.returncode == 1
    assert "reference_id" in failed.stderr
    assert out.read_text() == "of an earlier run"
    assert say(server, WORDS, "-o", out).returncode == 0
    assert frames(out.read_bytes()) == (RATE, sound_of(WORDS))
    assert list(tmp_path.iterdir()) == [out]


def test_speech_is_played_while_it_is_spoken_and_written_too(server: Server, tmp_path: Path) -> None:
    os.mkfifo(heard := tmp_path / "heard")
    path = player(tmp_path / "bin", f'echo "$@" > {tmp_path}/args; exec /bin/cat > {heard}')
    out = tmp_path / "out.pcm"
    command = [sys.executable, "-m", "client", "say", "--server", server.url, "--play", "-o", str(out)]
    with Gate(tmp_path) as gate:
        gate.open(1)
        environment = {**os.environ, "PATH": path}
        with subprocess.Popen([*command, gate.text(WORDS)], cwd=ROOT, env=environment) as process:
            with heard.open("rb") as sound:
                assert sound.read(len(sound_of("ask"))) == sound_of("ask")
                assert not out.exists()
                gate.open(9)
                assert sound.read() == sound_of(WORDS)[len(sound_of("ask")) :]
            assert process.wait(30) == 0
    assert out.read_bytes() == sound_of(WORDS)
    assert f"-r {RATE} " in (tmp_path / "args").read_text()


def test_ctrl_c_stops_the_sound_and_the_job(server: Server, tmp_path: Path) -> None:
    os.mkfifo(heard := tmp_path / "heard")
    path = player(tmp_path / "bin", f"exec /bin/cat > {heard}")
    with Gate(tmp_path) as gate:
        gate.open(1)
        terminal = Terminal("say", "--server", server.url, "--play", gate.text(WORDS), PATH=path)
        with heard.open("rb") as sound:
            assert sound.read(len(sound_of("ask"))) == sound_of("ask")
            terminal.process.send_signal(signal.SIGINT)
            assert sound.read() == b""
        assert terminal.end() == 130
    assert terminal.lines == ["The speech: cancelled, on the server too."]
    with urllib.request.urlopen(f"{server.url}/metrics") as metrics:
        assert b'optivus_jobs_finished_total{state="cancelled",type="fish"} 1.0' in metrics.read()


def test_without_a_player_it_says_which_to_install(server: Server, tmp_path: Path) -> None:
    run = say(server, WORDS, "--play", PATH=str(tmp_path))
    assert run.returncode == 1
    assert "ffplay" in run.stderr
    assert "aplay" in run.stderr


def test_player_that_ends_early_is_named_and_the_file_is_written(server: Server, tmp_path: Path) -> None:
    path = player(tmp_path / "bin", "exit 3")
    out = tmp_path / "out.pcm"
    for arguments in ([], ["-o", out]):
        run = say(server, WORDS, "--play", *arguments, PATH=path)
        assert run.returncode == 1
        assert run.stderr.startswith("aplay ended before the speech did (status 3);")
    assert out.read_bytes() == sound_of(WORDS)


def test_speech_in_the_voice_of_a_recording(server: Server, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"1234567")
    out = tmp_path / "out.pcm"
    run = say(server, WORDS, "--reference", recording, "--reference-text", "Me.", "-o", out)
    assert run.returncode == 0
    assert out.read_bytes() == sound_of(WORDS, 7 + 3)
    absent = say(server, WORDS, "--reference", tmp_path / "absent.wav", "-o", out)
    assert (absent.returncode, absent.stderr) == (1, f"{tmp_path}/absent.wav: No such file or directory\n")


def test_voices_are_added_listed_and_deleted(server: Server, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"of the played voice only the text counts")
    to = ("--server", server.url)
    added = optivus("voices", *to, "add", recording, "--text", "Me.", "--name", "my own")
    assert (added.returncode, added.stderr) == (0, "")
    voice = added.stdout.strip()
    [line] = optivus("voices", *to).stdout.splitlines()
    assert line.split() == [voice, "1.0", "s", *line.split()[3:5], "my", "own"]
    out = tmp_path / "out.pcm"
    assert say(server, WORDS, "--voice", voice, "-o", out).returncode == 0
    assert out.read_bytes() == sound_of(WORDS, len("Me."))
    assert optivus("voices", "delete", voice, *to).returncode == 0
    assert optivus("voices", *to).stdout == ""
    gone = optivus("voices", *to, "delete", voice)
    assert gone.returncode == 1
    assert "voice" in gone.stderr


@pytest.mark.parametrize(
    "wrong", [[], ["-o", "out.txt"], ["-o", "/absent/out.wav"], ["--voice", "a", "--reference", "b"]]
)
def test_wrong_use_is_status_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["say", "hello", *wrong])
