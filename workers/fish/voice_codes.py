"""Recordings of voices as codes, each encoded once: by memory, by disk, or by the codec.

    reference_id ─▶ Voices.find ─▶ memory ─▶ codes-….npy beside the voice ─▶ Unencoded
    file         ─▶ its content's hash ─▶ memory ────────────────────────▶ Unencoded

A voice is looked up on the disk before its codes are taken from memory, so nobody speaks with a deleted voice or with
another's. A voice's id and a file's hash stand for its very sound, so what is remembered never goes stale.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path
from typing import Any

import cachetools
import numpy as np
import torch
from torch import Tensor

from media.audio import as_float, decode
from media.encode import as_int16
from media.voice_recording import reference_sound
from storage.voices import Voice, read_codes, write_codes
from workers.fish.codec import Audio, Codec

_HASHED_BYTES = 64 * 1024 * 1024
"""A larger file is not hashed: decoding nearly always finds it too long, and refuses it sooner than it is read."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unencoded:
    """Sound to be encoded: float32, (n_samples,), mono, at the codec's rate.

    name: what its codes are remembered by, None where they are not; voice: beside which they are kept.
    """

    sound: Audio
    name: str | None = None
    voice: Voice | None = None


class VoiceCodes:
    """The codes of recordings, for several threads. codec_file: the codec's weights, which the codes depend on.

    megabytes, seconds: how much is remembered, the least recently used forgotten first, and for how long.
    """

    def __init__(self, codec: Codec, codec_file: Path, megabytes: float, seconds: float) -> None:
        self._codec = codec
        with codec_file.open("rb") as file:
            self._model_key = hashlib.file_digest(file, "sha256").hexdigest()
        self._memory: cachetools.TTLCache[str, Tensor] = cachetools.TTLCache(
            megabytes * 1e6, seconds, getsizeof=lambda codes: codes.nbytes
        )
        self._lock = threading.Lock()
        self._counts = {"hits": 0, "disk_hits": 0, "misses": 0}

    def info(self) -> dict[str, Any]:
        """For /health: how often a recording's codes were in memory, on disk, or had to be made."""
        with self._lock:
            return {**self._counts, "kept": len(self._memory), "kept_bytes": int(self._memory.currsize)}

    def of_voice(self, voice: Voice) -> Tensor | Unencoded:
        """Codes, int64, (C, n_frames), or what `encode` has to be given for them."""
        if (codes := self._remembered(voice.reference_id)) is not None:
            return codes
        kept = read_codes(voice.codes(self._model_key))
        if kept is not None and kept.ndim == 2 and len(kept) == self._codec.codebooks and kept.dtype.kind == "i":
            self._count("disk_hits")
            return self._remember(voice.reference_id, torch.from_numpy(kept.astype(np.int64)))
        sound = np.concatenate([*decode(voice.sound, self._codec.sample_rate)])
        return Unencoded(sound, voice.reference_id, voice)

    def of_file(self, path: Path, field: str) -> Tensor | Unencoded:
        """The same for a client's recording, which is checked. Raises: as `reference_sound`."""
        name = content_hash(path)
        if name is not None and (codes := self._remembered(name)) is not None:
            return codes
        return Unencoded(self.read(path, field), name)

    def read(self, path: Path, field: str) -> Audio:
        """A client's recording as it is saved, in 16 bits. Raises: as `reference_sound`."""
        sound = reference_sound(path, self._codec.sample_rate, field)
        return as_float(as_int16(sound))

    def encode(self, recording: Unencoded) -> Tensor:
        """The codes, int64, (C, n_frames), which are kept. Raises: InvalidInput."""
        self._count("misses")
        codes = self._codec.encode(recording.sound)
        if recording.name is not None:
            self._remember(recording.name, codes)
        if recording.voice is not None:
            write_codes(recording.voice.codes(self._model_key), codes.to(torch.int32).numpy())
        return codes

    def keep(self, voice: Voice, codes: Tensor) -> None:
        """The codes of a voice that was saved after it had been encoded."""
        self._remember(voice.reference_id, codes)
        write_codes(voice.codes(self._model_key), codes.to(torch.int32).numpy())

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _remembered(self, name: str) -> Tensor | None:
        with self._lock:
            codes = self._memory.get(name)
            self._counts["hits"] += codes is not None
            return codes

    def _remember(self, name: str, codes: Tensor) -> Tensor:
        with self._lock:
            if codes.nbytes <= self._memory.maxsize:
                self._memory[name] = codes
        return codes


def content_hash(path: Path) -> str | None:
    """The hash of a file's content; None for a file above _HASHED_BYTES."""
    if path.stat().st_size > _HASHED_BYTES:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
