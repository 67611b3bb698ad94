"""Processes that die or fight over one folder of voices; run by test_voices.py in a process that has no threads.

`python -m tests.voice_drills killed FOLDER`: saves, updates and deletes a voice, once for each thing that this does to
the disk, and dies by SIGKILL right before it. Prints how many moments there were; fails where one left half a voice.
`python -m tests.voice_drills crowd FOLDER`: four processes save, read and delete one voice at once.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from contract.errors import VoiceNotFound
from storage.voices import Voice, Voices, read_codes, write_codes

RATE = 8_000
SOUND = np.linspace(-16_000, 16_000, 2 * RATE, dtype=np.int16)
ON_DISK = {"open", "write", "flush", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"}
"""Python's own functions that a moment ends before."""
CROWD = 4
ROUNDS = 25


def save(voices: Voices, name: str = "Ada") -> Voice:
    return voices.save("owner", SOUND, RATE, "Some words.", name=name)


def check(folder: Path) -> list[Voice]:
    """What is listed is whole."""
    listed = Voices(folder).of("owner")
    for voice in listed:
        with wave.open(str(voice.sound)) as sound:
            assert sound.getnframes() == len(SOUND), "half a recording"
    assert len(list(folder.glob("*/voice_*"))) == len(listed), "half a voice"
    return listed


def killed(folder: Path) -> None:
    voices, moments = Voices(folder), 0

    def delete() -> None:
        for voice in voices.of("owner"):
            voices.delete(voice.reference_id, "owner")

    for before, act, outcomes in (
        (delete, lambda: save(voices), ([], ["Ada"])),
        (lambda: save(voices), lambda: save(voices, "Grace"), (["Ada"], ["Grace"])),
        (lambda: save(voices), delete, (["Ada"], [])),
    ):
        for number in itertools.count():
            before()
            survived = _survives(act, number)
            names = [voice.name for voice in check(folder)]
            assert names in outcomes[survived:], f"killed at {number}: {names}, not one of {outcomes}"
            if survived:
                break
            moments += 1
    print(moments)


def _survives(act: Callable[[], object], number: int) -> bool:
    """Whether another process comes to the end of this, when it dies before it touches the disk once more than so."""
    child = os.fork()
    if not child:
        left = number

        def count(_: object, event: str, called: Any) -> None:
            nonlocal left
            if event == "c_call" and called.__name__ in ON_DISK:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        act()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"it failed by itself: {status}"
    return status == 0


def crowd(folder: Path) -> None:
    children = []
    for _ in range(CROWD):
        children.append(os.fork())
        if not children[-1]:
            _elbow(Voices(folder))
            os._exit(0)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    assert not failed, f"{len(failed)} of {CROWD} failed"
    voice = save(Voices(folder))
    assert [listed.reference_id for listed in check(folder)] == [voice.reference_id]
    print(len([path for path in folder.iterdir() if path.name.startswith(".")]))


def _elbow(voices: Voices) -> None:
    codes = np.arange(80)
    for round_ in range(ROUNDS):
        voice = save(voices, f"{os.getpid()} {round_} {time.time()}")
        write_codes(voice.codes("model"), codes)
        assert len(voices.of("owner")) <= 1
        kept = read_codes(voice.codes("model"))
        assert kept is None or np.array_equal(kept, codes)
        try:
            voices.delete(voice.reference_id, "owner")
        except VoiceNotFound:  # somebody else was faster
            continue


if __name__ == "__main__":
    {"killed": killed, "crowd": crowd}[sys.argv[1]](Path(sys.argv[2]))
