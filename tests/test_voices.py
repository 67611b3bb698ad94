"""Saved voices: stable, whole or not there, and nobody's but their owner's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import structlog

from contract.errors import VoiceNotFound
from media.audio import decode
from media.encode import Samples, as_int16
from storage.voices import REFERENCE_ID, Voice, Voices, read_codes, write_codes
from tests.recordings import EXAMPLE

RATE = 44_100
ROOT = Path(__file__).parent.parent
NO_IDS: tuple[object, ...] = (
    *("", "../x", "/etc/passwd", "voice_", "voice_" + "0" * 24, "voice_" + "0" * 24 + "\n", "voice_" + "g" * 24),
    *(
        ".",
        "..",
        "voice_../../../../../etc/x",
        "a\0b",
        "\ud800",
        "x" * 5_000_000,
        7,
        None,
        True,
        [],
        {},
        b"voice_",
        1.5,
    ),
)


@pytest.fixture(scope="module")
def sound() -> Samples:
    return as_int16(np.concatenate(list(decode(EXAMPLE, RATE)))[: 2 * RATE])


@pytest.fixture
def voices(tmp_path: Path) -> Voices:
    return Voices(tmp_path / "voices")


def drilled(what: str, folder: Path) -> str:
    command = [sys.executable, "-m", "tests.voice_drills", what, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_voice_is_saved_found_and_listed(voices: Voices, sound: Samples) -> None:
    began = time.time()
    saved = voices.save("ann", sound, RATE, "And so", name="JFK", description="A president")
    assert REFERENCE_ID.fullmatch(saved.reference_id)
    assert voices.find(saved.reference_id, "ann") == saved
    assert (saved.text, saved.duration) == ("And so", 2.0)
    assert began <= saved.created_at <= time.time()
    assert [voice.shown() for voice in voices.of("ann")] == [
        {
            "reference_id": saved.reference_id,
            "name": "JFK",
            "description": "A president",
            "duration": 2.0,
            "created_at": saved.created_at,
        }
    ]
    with wave.open(str(saved.sound)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, RATE)
    assert np.array_equal(as_int16(np.concatenate(list(decode(saved.sound, RATE)))), sound)


def test_saving_the_same_again_is_the_same_voice(voices: Voices, sound: Samples) -> None:
    first = voices.save("ann", sound, RATE, "And so", name="JFK", description="A president")
    write_codes(first.codes("model"), np.arange(8))
    again = voices.save("ann", sound, RATE, "And so", name="Kennedy")
    assert (again.reference_id, again.created_at) == (first.reference_id, first.created_at)
    assert (again.name, again.description) == ("Kennedy", "A president")
    assert voices.save("ann", sound, RATE, "And so") == again
    assert voices.of("ann") == [again]
    assert read_codes(again.codes("model")) is not None
    others = [
        voices.save("ann", sound, RATE, "And"),
        voices.save("ann", sound[:-1], RATE, "And so"),
        voices.save("bob", sound, RATE, "And so"),
    ]
    assert len({voice.reference_id for voice in (first, *others)}) == 4


def test_lists_begin_with_the_newest(voices: Voices, sound: Samples) -> None:
    saved = [voices.save("ann", sound, RATE, text) for text in ("one", "two", "three")]
    assert voices.of("ann") == saved[::-1]
    assert voices.of("nobody") == []


def test_voices_are_their_owners_alone(voices: Voices, sound: Samples) -> None:
    """Another's voice is as little there as one that never was."""
    hers = voices.save("ann", sound, RATE, "And so")
    never = "voice_" + "0" * 24
    answers = []
    for reference_id in (hers.reference_id, never):
        for act in (voices.find, voices.delete):
            with pytest.raises(VoiceNotFound) as refused:
                act(reference_id, "bob")
            answers.append(refused.value.answer())
    assert all(answer == answers[0] for answer in answers)
    assert voices.of("bob") == []
    assert voices.of("ann") == [hers]
    assert not [path for path in hers.folder.parents[1].rglob("*") if "ann" in path.name]


def test_a_copied_record_gives_nobody_anothers_voice(voices: Voices, sound: Samples) -> None:
    """The owner in the record counts, not only the folder that it lies in."""
    hers, his = voices.save("ann", sound, RATE, "And so"), voices.save("bob", sound, RATE, "And so")
    moved = his.folder.parent / hers.reference_id
    hers.folder.rename(moved)
    with pytest.raises(VoiceNotFound):
        voices.find(hers.reference_id, "bob")
    assert voices.of("bob") == [his]


@pytest.mark.parametrize("reference_id", NO_IDS, ids=lambda no: repr(no)[:20])
def test_what_is_no_id_is_no_voice_and_no_path(voices: Voices, sound: Samples, reference_id: object) -> None:
    kept = voices.save("ann", sound, RATE, "And so")
    for act in (voices.find, voices.delete):
        with pytest.raises(VoiceNotFound) as refused:
            act(reference_id, "ann")
        assert len(str(refused.value.answer())) < 300
    assert voices.of("ann") == [kept]


def test_a_path_to_a_voice_is_no_id_of_it(voices: Voices, sound: Samples) -> None:
    kept = voices.save("ann", sound, RATE, "And so")
    own, reference_id = kept.folder.parent.name, kept.reference_id
    for path in (f"../{own}/{reference_id}", f"./{reference_id}", f"{reference_id}/", str(kept.folder)):
        with pytest.raises(VoiceNotFound):
            voices.find(path, "ann")


def test_a_deleted_voice_leaves_nothing(voices: Voices, sound: Samples) -> None:
    voice = voices.save("ann", sound, RATE, "And so")
    write_codes(voice.codes("model"), np.arange(8))
    voices.delete(voice.reference_id, "ann")
    assert voices.of("ann") == []
    assert not [path for path in voice.folder.parents[1].rglob("*") if path.is_file()]
    write_codes(voice.codes("model"), np.arange(8))  # by a worker that was still speaking with it
    assert read_codes(voice.codes("model")) is None
    with pytest.raises(VoiceNotFound):
        voices.delete(voice.reference_id, "ann")
    assert voices.save("ann", sound, RATE, "And so").reference_id == voice.reference_id


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '"x"', "null", '{"name": 3}', "\xff", "[" * 100_000, '{"reference_id": "voice_0"}']
)
def test_damaged_records_are_skipped_told_and_healed(voices: Voices, sound: Samples, damage: str) -> None:
    whole, hurt = voices.save("ann", sound, RATE, "whole"), voices.save("ann", sound, RATE, "hurt")
    (hurt.folder / "voice.json").write_bytes(damage.encode("latin-1"))
    with structlog.testing.capture_logs() as logs:
        assert voices.of("ann") == [whole]
    assert [line["event"] for line in logs] == ["voice_damaged"]
    with pytest.raises(VoiceNotFound):
        voices.find(hurt.reference_id, "ann")
    healed = voices.save("ann", sound, RATE, "hurt", name="again")
    assert voices.of("ann") == [healed, whole]


def test_a_voice_without_its_recording_is_none(voices: Voices, sound: Samples) -> None:
    voice = voices.save("ann", sound, RATE, "And so")
    voice.sound.unlink()
    assert voices.of("ann") == []
    assert voices.save("ann", sound, RATE, "And so").sound.is_file()


def test_a_process_killed_at_any_moment_leaves_voices_whole_or_not_there(tmp_path: Path) -> None:
    assert int(drilled("killed", tmp_path / "voices")) > 15


def test_processes_that_save_and_delete_the_same_voice_do_not_fail(tmp_path: Path) -> None:
    assert drilled("crowd", tmp_path / "voices") == "0\n"  # leftovers, and nothing in the log


def test_codes_are_kept_for_each_model(voices: Voices, sound: Samples) -> None:
    voice = voices.save("ann", sound, RATE, "And so")
    assert read_codes(voice.codes("fishaudio/fish-speech-1.5")) is None
    codes = np.arange(8 * 40, dtype=np.int16).reshape(8, 40)
    write_codes(voice.codes("fishaudio/fish-speech-1.5"), codes)
    kept = read_codes(voice.codes("fishaudio/fish-speech-1.5"))
    assert kept is not None
    assert kept.dtype == codes.dtype
    assert np.array_equal(kept, codes)
    assert read_codes(voice.codes("../../other")) is None
    assert voice.codes("../../other").parent == voice.folder
    assert sorted(path.name for path in voice.folder.iterdir())[1:] == ["reference.wav", "voice.json"]


def test_damaged_codes_are_none(voices: Voices, sound: Samples) -> None:
    voice = voices.save("ann", sound, RATE, "And so")
    path = voice.codes("model")
    write_codes(path, np.arange(300))
    whole = path.read_bytes()
    flipped = [whole[:at] + b"(" + whole[at + 1 :] for at in range(80)]  # some of them whole still
    for damaged in (b"", b"text", b"PK\3\4" + whole, whole[:-1], whole[:100], whole[:9], *flipped):
        path.write_bytes(damaged)
        assert read_codes(path) is None or damaged in flipped
    with pytest.raises(ValueError, match="Object arrays"):
        write_codes(path, np.array([{}], dtype=object))
    path.write_bytes(whole)
    assert read_codes(path) is not None


def test_listing_and_deleting_import_no_sound_library(tmp_path: Path, sound: Samples) -> None:
    saved: Voice = Voices(tmp_path).save("ann", sound, RATE, "And so")
    program = (
        "import sys; from pathlib import Path; from storage.voices import Voices; voices = Voices(Path(sys.argv[1]));"
        "voices.delete(voices.of('ann')[0].reference_id, 'ann');"
        "print(sorted({'numpy', 'av', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
    assert not json.loads(json.dumps([voice.shown() for voice in Voices(tmp_path).of(saved.owner)]))
