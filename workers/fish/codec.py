"""Between sound and codes: what the codecs of the fish models have in common.

A codec turns sound into frames of codes and back. A frame is a column of one code for each codebook and stands for
`frame_length` samples. Sound is float32, mono, in [-1, 1], at `sample_rate`; codes are int64, (codebooks, n_frames).

Both codecs look only back, so a stream of frames is decoded as it comes: a `Stream` keeps what the decoder's layers
remember (`workers.fish.causal`), each push costs its own frames alone, and the pieces joined are the whole.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.errors import InvalidInput, ModelUnavailable
from workers.fish.causal import Memory

Audio = NDArray[np.float32]

_PIECE_FRAMES = 32
"""Frames that `decode` takes at once: enough to fill the kernels, while memory does not grow with the length."""

log = structlog.get_logger()


class Codec(abc.ABC):
    """Subclasses set the attributes and implement `_encode` and `_decode`."""

    sample_rate: int
    """Of the sound, in Hz."""
    frame_length: int
    """Samples to a frame."""
    codebooks: int
    device: torch.device
    shortest: int = 1
    """Samples that `encode` needs at least."""
    longest_frames: int | None = None
    """Frames that can be encoded, or decoded in one stream, at most; None where nothing limits them."""

    @property
    def frame_rate(self) -> float:
        """Frames a second, about 21.5."""
        return self.sample_rate / self.frame_length

    def encode(self, audio: Audio) -> Tensor:
        """audio: float32, (n_samples,), mono, `sample_rate`, in [-1, 1] → int64, (codebooks, n_frames), on the CPU.

        n_frames is about n_samples / frame_length. Raises: InvalidInput.
        """
        sound = torch.as_tensor(np.asarray(audio), dtype=torch.float32)
        if sound.ndim != 1:
            raise InvalidInput(f"The codec takes mono sound as one row of samples, not the shape {tuple(sound.shape)}.")
        if len(sound) < self.shortest:
            shortest = self.shortest / self.sample_rate
            raise InvalidInput(f"The recording is too short: the codec needs at least {shortest:.3f} s of sound.")
        if not bool(sound.isfinite().all()):
            raise InvalidInput("The recording holds samples that are not finite numbers.")
        self._check_frames(-(-len(sound) // self.frame_length))
        with torch.inference_mode():
            return self._encode(sound[None].to(self.device))[0].cpu()

    def decode(self, codes: Tensor | NDArray[np.integer[Any]]) -> Audio:
        """codes: integers, (codebooks, n_frames) → float32, (n_frames * frame_length,), in [-1, 1].

        Codes beyond a codebook's end count as its last. Raises: InvalidInput.
        """
        stream = self.stream()
        pieces = [stream.push(piece) for piece in self._codes(codes).split(_PIECE_FRAMES, dim=1)]
        return np.concatenate([*pieces, stream.flush()])

    def stream(self) -> Stream:
        """A new sound, to be decoded as its codes are made."""
        return Stream(self)

    def push_together(self, streams: Sequence[Stream], codes: Sequence[Tensor]) -> list[Audio]:
        """What each stream's `push` would give for its codes; those of as many frames are decoded as one batch.

        Raises: InvalidInput, and then no stream has advanced.
        """
        given = [self._codes(piece) for piece in codes]
        for stream, piece in zip(streams, given, strict=True):
            self._check_frames(stream.frames + piece.shape[1])
        sounds: list[Audio] = [np.empty(0, dtype=np.float32)] * len(given)
        for length in {piece.shape[1] for piece in given} - {0}:
            batch = [index for index, piece in enumerate(given) if piece.shape[1] == length]
            memory = Memory.stacked([streams[index].memory for index in batch])
            with torch.inference_mode(), memory.current():
                rows = self._decode(torch.stack([given[index] for index in batch])).float().cpu().numpy()
            for row, index in enumerate(batch):
                streams[index].memory = memory.row(row)
                streams[index].frames += length
                sounds[index] = rows[row]
        return sounds

    @abc.abstractmethod
    def _encode(self, audio: Tensor) -> Tensor:
        """float32, (rows, n_samples) → int64, (rows, codebooks, n_frames)."""

    @abc.abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """int64, (rows, codebooks, n_frames) → (rows, n_frames * frame_length), by and into the current memory."""

    def _codes(self, codes: Tensor | NDArray[np.integer[Any]]) -> Tensor:
        given = torch.as_tensor(codes)
        if given.ndim != 2 or len(given) != self.codebooks or given.is_floating_point():
            raise InvalidInput(
                f"The codec takes whole numbers of the shape ({self.codebooks}, frames), not {given.dtype} of the "
                f"shape {tuple(given.shape)}."
            )
        return given.to(self.device, torch.int64)

    def _check_frames(self, frames: int) -> None:
        if self.longest_frames is not None and frames > self.longest_frames:
            seconds = int(self.longest_frames / self.frame_rate)
            raise InvalidInput(f"The sound is too long: this codec takes {seconds} s at once.")


@dataclasses.dataclass(slots=True, eq=False)
class Stream:
    """One sound being decoded. frames: how many have been so far."""

    codec: Codec
    memory: Memory = dataclasses.field(default_factory=Memory)
    frames: int = 0

    def push(self, codes: Tensor | NDArray[np.integer[Any]]) -> Audio:
        """codes: integers, (codebooks, n_frames), that follow the last ones → float32, (n_frames * frame_length,).

        Raises: InvalidInput.
        """
        (sound,) = self.codec.push_together([self], [torch.as_tensor(codes)])
        return sound

    def flush(self) -> Audio:
        """End the sound and start anew. Returns what was held back, which is nothing."""
        self.memory, self.frames = Memory(), 0
        return np.empty(0, dtype=np.float32)


def read_weights(file: Path) -> dict[str, Tensor]:
    """A published checkpoint's tensors, by name. Pickled code in it is never run. Raises: ModelUnavailable."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            read: Any = load_file(file)
        else:
            read = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as exc:
        if isinstance(exc, MemoryError):
            raise
        log.error("codec_unreadable", file=str(file), error=str(exc))
        raise ModelUnavailable(
            f"The codec's file {file.name} cannot be read: it is damaged, incomplete or not a checkpoint. "
            "Fetch it again."
        ) from exc
    inner = read.get("state_dict", read) if isinstance(read, Mapping) else {}
    weights = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    # Training keeps the discriminator beside it; upstream's tools/vqgan/inference.py reads it so.
    generator = {name.replace("generator.", ""): value for name, value in weights.items() if "generator." in name}
    return generator or weights


def foreign(file: Path, needed: str) -> ModelUnavailable:
    """The error for a file whose weights are those of something else."""
    return ModelUnavailable(
        f"The codec's file {file.name} does not hold the weights of {needed}. Fetch the file of the published model "
        "again, or set AI_FISH_MODEL to one that is complete."
    )
