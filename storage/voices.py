"""Saved voices on disk: written by workers, listed and deleted by the server, read by both at any time.

    VOICES_DIR/<hash of the owner>/<reference_id>/voice.json       what is known of it, its owner included
                                                  reference.wav    the checked recording, 16-bit mono
                                                  codes-….npy      that recording as a model's codes, a cache
               .making-…, .deleting-…                              on their way in and out

A voice comes and goes by one rename, so it is there whole or not at all, whoever is killed when. Its id is a hash of
its owner, sound and text: saving the same again is the same voice. An id that a client sent becomes a path only after
it matched the pattern, and then only below its owner's folder. Nothing here needs a sound library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import wave
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import pydantic
import structlog

from contract.errors import VoiceNotFound

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REFERENCE_ID = re.compile(r"voice_[0-9a-f]{24}")

_RECORD = "voice.json"
_PASSING = re.compile(r"\.(making|deleting)-[0-9a-f]{32}")
_HALF = re.compile(r"\..+-[0-9a-f]{32}")

_UNREADABLE = (OSError, EOFError, ValueError, TypeError, OverflowError, SyntaxError, TokenError, MemoryError)
"""What NumPy raises over damaged files: it reads their header as Python's literals."""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Voice:
    """A saved voice. duration: seconds. created_at: seconds since 1970. text: what is said in the recording."""

    reference_id: str
    owner: str
    name: str | None
    description: str | None
    text: str
    duration: float
    created_at: float
    folder: Path

    @property
    def sound(self) -> Path:
        """The checked recording, 16-bit mono wav."""
        return self.folder / "reference.wav"

    def codes(self, model_key: str) -> Path:
        """Where a model keeps the recording as its codes. model_key: all that these codes depend on."""
        return self.folder / f"codes-{_digest(model_key)}.npy"

    def shown(self) -> dict[str, Any]:
        """As `voices` lists it."""
        fields = ("reference_id", "name", "description", "duration", "created_at")
        return {**{field: getattr(self, field) for field in fields}, "duration": round(self.duration, 3)}


_VOICE = pydantic.TypeAdapter(Voice)


class Voices:
    """The voices of all owners. Any number of processes may use one folder at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(  # noqa: PLR0917
        self,
        owner: str,
        samples: npt.NDArray[np.int16],
        sample_rate: int,
        text: str,
        name: str | None = None,
        description: str | None = None,
    ) -> Voice:
        """Keep a voice; on the disk when this returns.

        samples: int16, shape (n_samples,), mono, at `sample_rate` in Hz; `media.voice_recording` makes them fit.
        Saving what is there already updates its name and description where they are given, and keeps the rest.
        Raises: OSError.
        """
        sound = samples.astype("<i2").tobytes()
        reference_id = f"voice_{_digest(owner, text, sound)}"
        folder = self._of(owner) / reference_id
        voice = Voice(reference_id, owner, name, description, text, len(samples) / sample_rate, time.time(), folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = self._passing(".making-")
        making.mkdir()
        try:
            _write(making / voice.sound.name, _wav(sound, sample_rate))
            _write(making / _RECORD, _recorded(voice))
            _sync(making)
            return self._placed(voice, making)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def find(self, reference_id: Any, owner: str) -> Voice:
        """An owner's voice. Raises: VoiceNotFound, the same for what never was, is another's or is no id at all."""
        voice = None
        if isinstance(reference_id, str) and REFERENCE_ID.fullmatch(reference_id):
            voice = _read(self._of(owner) / reference_id)
        if voice is None or voice.owner != owner:
            raise VoiceNotFound(
                "There is no voice of yours with this reference_id; the message 'voices' lists those there are.",
                field="reference_id",
            )
        return voice

    def anyones(self, reference_id: str) -> Voice | None:
        """A voice, whoever's it is: for the operator, never for a client."""
        named = self._folder.glob(f"*/{reference_id}") if REFERENCE_ID.fullmatch(reference_id) else ()
        return next(filter(None, map(_read, named)), None)

    def of(self, owner: str) -> list[Voice]:
        """An owner's voices, newest first."""
        try:
            folders = list(self._of(owner).iterdir())
        except FileNotFoundError:
            return []
        read = [_read(folder) for folder in folders if REFERENCE_ID.fullmatch(folder.name)]
        voices = [voice for voice in read if voice is not None and voice.owner == owner]
        return sorted(voices, key=lambda voice: (-voice.created_at, voice.reference_id))

    def delete(self, reference_id: Any, owner: str) -> None:
        """Forget an owner's voice and what was made of it. Raises: VoiceNotFound."""
        while not self._taken_away(self.find(reference_id, owner).folder):  # another process was faster: find says so
            continue

    def halves(self) -> Iterator[Path]:
        """What is on its way in or out, or was when a process died."""
        yield from (path for path in self._folder.glob(".*-*") if _PASSING.fullmatch(path.name))
        yield from (path for path in self._folder.glob("*/voice_*/.*-*") if _HALF.fullmatch(path.name))

    def _of(self, owner: str) -> Path:
        """One owner's folder, so that listing looks at nobody else's; its name tells nobody whose it is."""
        return self._folder / _digest(owner)

    def _passing(self, kind: str) -> Path:
        return self._folder / f"{kind}{uuid.uuid4().hex}"

    def _placed(self, voice: Voice, making: Path) -> Voice:
        """Move a voice in, or bring the one that is there already up to date; others may do either at the same time."""
        while True:
            try:
                making.rename(voice.folder)
            except OSError as exc:
                if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                _sync(voice.folder.parent)
                _sync(self._folder)
                return voice
            kept = _read(voice.folder)
            if kept is None:  # damaged: make room
                self._taken_away(voice.folder)
                continue
            updated = dataclasses.replace(
                kept, name=voice.name or kept.name, description=voice.description or kept.description
            )
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: move in after all
                _write(voice.folder / _RECORD, _recorded(updated))
                return updated

    def _taken_away(self, folder: Path) -> bool:
        """Whether there was a folder to delete."""
        leaving = self._passing(".deleting-")
        try:
            folder.rename(leaving)
        except FileNotFoundError:
            return False
        _sync(folder.parent)
        _sync(self._folder)
        shutil.rmtree(leaving, ignore_errors=True)
        return True


def read_codes(path: Path) -> npt.NDArray[np.generic] | None:
    """An array that `write_codes` kept; None where there is none that can be read."""
    import numpy as np

    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except _UNREADABLE as exc:  # to be made again
        log.warning("voice_codes_damaged", path=str(path), error=str(exc))
        return None


def write_codes(path: Path, codes: npt.NDArray[np.generic]) -> None:
    """Keep an array of numbers, whole or not at all; not where its voice was deleted meanwhile. Raises: OSError."""
    import numpy as np

    made = BytesIO()
    np.lib.format.write_array(made, codes, allow_pickle=False)
    with contextlib.suppress(FileNotFoundError):
        _write(path, made.getvalue())


def _read(folder: Path) -> Voice | None:
    """The voice in a folder; None where there is none or it is damaged, which the log tells."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        voice = _VOICE.validate_python({**record, "folder": folder})
        if voice.reference_id != folder.name:
            raise ValueError("this is the record of another voice")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        log.warning("voice_damaged", reference_id=folder.name, error=str(exc))
        return None
    return voice if voice.sound.is_file() else None  # not where it is being deleted right now


def _recorded(voice: Voice) -> bytes:
    fields = {field.name: getattr(voice, field.name) for field in dataclasses.fields(voice) if field.name != "folder"}
    return json.dumps(fields, indent=1).encode()


def _wav(sound: bytes, sample_rate: int) -> bytes:
    """A wav file of little-endian 16-bit mono samples."""
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(sound)
    return made.getvalue()


def _write(path: Path, content: bytes) -> None:
    """A whole file or none, on the disk."""
    writing = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with writing.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _digest(*parts: str | bytes) -> str:
    """24 hex digits; each part counts with its length, so that no two lists of parts are alike."""
    made = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        made.update(len(content).to_bytes(8) + content)
    return made.hexdigest()[:24]
