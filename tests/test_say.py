"""`optivus say` and `optivus voices` against a server whose voice is played."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.cli import main
from tests.asking import Optivus
from tests.scripts import scripted_server
from tests.servers import ROOT, Server
from tests.test_cli import Terminal
from tests.test_client_speech import RATE, WORDS, Gate, frames, sound_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def player(folder: Path, script: str) -> str:
    """A PATH with one player on it that does what `script` says."""
    folder.mkdir()
    program = folder / "aplay"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(folder)


def cancelled(server: Server) -> float:
    """How many speeches were."""
    with urllib.request.urlopen(f"{server.url}/metrics") as metrics:
        found = re.search(r'optivus_jobs_finished_total{state="cancelled",type="fish"} (.*)', metrics.read().decode())
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(("ending", "begins"), [("MP3", b"ID3"), ("ogg", b"OggS")])
def test_ending_of_the_file_says_the_format(optivus: Optivus, tmp_path: Path, ending: str, begins: bytes) -> None:
    assert optivus("say", WORDS, "-o", tmp_path / f"out.{ending}") == (0, "", "")
    assert (tmp_path / f"out.{ending}").read_bytes().startswith(begins)


def test_text_comes_from_standard_input(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out.pcm"
    command = [sys.executable, "-m", "client", "say", "--server", server.url, "-", "-o", str(out), "--seed", "3"]
    subprocess.run(command, cwd=ROOT, input=WORDS.encode(), check=True, timeout=60)
    assert out.read_bytes() == sound_of(WORDS, 3)
    wrong = subprocess.run(command, cwd=ROOT, input=b"\xff", check=False, timeout=60, capture_output=True)
    assert (wrong.returncode, b"UTF-8" in wrong.stderr) == (2, True)


def test_file_is_replaced_when_the_speech_is_there_and_not_before(optivus: Optivus, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    out.write_text("of an earlier run")
    status, _, said = optivus("say", WORDS, "-o", out, "--voice", "voice_of_nobody")
    assert status == 1
    assert "reference_id" in said
    with out.open() as earlier:
        assert optivus("say", WORDS, "-o", out)[0] == 0
        assert earlier.read() == "of an earlier run"
    assert frames(out.read_bytes()) == (RATE, sound_of(WORDS))
    assert list(tmp_path.iterdir()) == [out]


def test_file_that_cannot_be_written_is_called_as_the_person_did(optivus: Optivus, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    out.symlink_to("/dev/full")
    assert optivus("say", WORDS, "-o", out) == (1, "", f"{out}: No space left on device\n")


def test_file_may_have_the_longest_name_there_is(optivus: Optivus, tmp_path: Path) -> None:
    out = tmp_path / f"{'x' * 251}.pcm"
    assert optivus("say", WORDS, "-o", out) == (0, "", "")
    assert out.read_bytes() == sound_of(WORDS)


def test_closed_standard_input_is_told(
    optivus: Optivus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as `<&-` leaves it
    with pytest.raises(SystemExit, match="2"):
        optivus("say", "-", "-o", tmp_path / "out.wav")
    assert "standard input is closed" in capsys.readouterr().err


def test_number_that_is_none_is_named(optivus: Optivus, tmp_path: Path) -> None:
    status, _, said = optivus("say", WORDS, "-o", tmp_path / "out.wav", "--temperature", "nan")
    assert (status, said.split()[0]) == (1, "'temperature'")


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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_stop_the_sound_and_the_job(
    server: Server, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    os.mkfifo(heard := tmp_path / "heard")
    path = player(tmp_path / "bin", f"exec > {heard}; /bin/cat; exec /bin/sleep 60")  # as one that plays its buffer
    before = cancelled(server)
    with Gate(tmp_path) as gate:
        gate.open(1)
        terminal = Terminal("say", "--server", server.url, "--play", gate.text(WORDS), PATH=path)
        with heard.open("rb") as sound:
            assert sound.read(len(sound_of("ask"))) == sound_of("ask")
            terminal.process.send_signal(number)
            assert sound.read() == b""
        assert terminal.end() == status
    assert terminal.lines == ["The speech: cancelled, on the server too."]
    while cancelled(server) == before:  # it is counted when it has been committed
        pass


def test_closed_terminal_stops_the_sound_and_the_job(server: Server, tmp_path: Path) -> None:
    os.mkfifo(heard := tmp_path / "heard")
    path = player(tmp_path / "bin", f"exec > {heard}; exec /bin/cat")
    before = cancelled(server)
    with Gate(tmp_path) as gate:
        gate.open(1)
        terminal = Terminal("say", "--server", server.url, "--play", gate.text(WORDS), PATH=path)
        with heard.open("rb") as sound:
            assert sound.read(len(sound_of("ask"))) == sound_of("ask")
            assert terminal.hang_up() == 129
            assert sound.read() == b""
    while cancelled(server) == before:  # it is counted when it has been committed
        pass


def test_without_a_player_it_says_which_to_install(
    optivus: Optivus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, said = optivus("say", WORDS, "--play")
    assert status == 1
    assert "ffplay" in said
    assert "aplay" in said


def test_player_that_ends_early_is_named_and_the_file_is_written(
    optivus: Optivus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", player(tmp_path / "bin", "exit 3"))
    out = tmp_path / "out.pcm"
    status, _, said = optivus("say", WORDS, "--play", "-o", out)
    assert status == 1
    assert said.startswith("aplay ended before the speech did (status 3);")
    assert out.read_bytes() == sound_of(WORDS)


def test_speech_that_nobody_can_hear_is_cancelled(
    server: Server, optivus: Optivus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", player(tmp_path / "bin", "exit 3"))
    before = cancelled(server)
    with Gate(tmp_path) as gate:
        gate.open(1)
        assert optivus("say", gate.text(WORDS), "--play")[0] == 1
    while cancelled(server) == before:  # it is counted when it has been committed
        pass


def test_speech_in_the_voice_of_a_recording(optivus: Optivus, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"1234567")
    out = tmp_path / "out.pcm"
    assert optivus("say", WORDS, "--reference", recording, "--reference-text", "Me.", "-o", out)[0] == 0
    assert out.read_bytes() == sound_of(WORDS, 7 + 3)
    absent = optivus("say", WORDS, "--reference", tmp_path / "absent.wav", "-o", out)
    assert absent == (1, "", f"{tmp_path}/absent.wav: No such file or directory\n")


def test_voices_are_added_listed_and_deleted(optivus: Optivus, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"of the played voice only the text counts")
    status, voice, said = optivus("voices", "add", recording, "--text", "Me.", "--name", "my own")
    assert (status, said) == (0, "")
    voice = voice.strip()
    [line] = optivus("voices")[1].splitlines()
    assert line.split() == [voice, "1.0", "s", *line.split()[3:5], "my", "own"]
    out = tmp_path / "out.pcm"
    assert optivus("say", WORDS, "--voice", voice, "-o", out)[0] == 0
    assert out.read_bytes() == sound_of(WORDS, len("Me."))
    assert optivus("voices", "delete", voice) == (0, "", "")
    assert optivus("voices")[1] == ""
    status, _, said = optivus("voices", "delete", voice)
    assert status == 1
    assert "voice" in said


def test_terminal_obeys_no_name_of_a_voice(optivus: Optivus, tmp_path: Path) -> None:
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"of the played voice only the text counts")
    name = "山田\u3000\x1b[2J\n👩\u200d🔧\u202e"
    voice = optivus("voices", "add", recording, "--text", "Me.", "--name", name)[1].strip()
    [line] = optivus("voices")[1].splitlines()
    assert line.endswith(r"  山田　\x1b[2J\n" + "👩\u200d🔧" + r"\u202e")
    assert optivus("voices", "delete", voice)[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["-o", "out.txt"],
        ["-o", "/absent/out.wav"],
        ["-o", "/proc/out.wav"],
        ["-o", "out.wav/"],
        ["-o", f"{'x' * 300}.wav"],
        ["-o", "out.wav", "--voice", "a", "--reference", "b"],
        ["-o", "out.wav", "--reference-text", "what nobody said"],
    ],
)
def test_wrong_use_is_status_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["say", "hello", *wrong])
