"""From texts to sound, a frame at a time: the loop and the codec as one, for the speech of several requests at once.

    say(prompt) ─▶ Saying ─▶ advance([saying, …]): one frame each ─▶ loop.step ─▶ codes held back ─▶ codec
    close(saying)                                                        in blocks, the first ones short

On a GPU the frames of all sayings are decoded together as they come. On a CPU four frames cost hardly more than one, so
frames wait until they are a block, and each saying is decoded by itself. That costs little beside the model, and a
text's sound is the same in every attempt, whatever other texts share the batch. A batch that does not fit into the
device's memory is tried again in halves. Sequences and decoding are halved apart, so that no sequence makes a frame
twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from workers.fish.checkpoint import Checkpoint
from workers.fish.codec import Audio, Codec, Stream
from workers.fish.generate import Frame, Handle, Loop, Stop, Utterance
from workers.fish.params import ADVICE
from workers.fish.prompt import Spoken
from workers.fish.sampling import Sampling

CPU_BLOCKS = (1, 2, 4)
CUDA_BLOCKS = (1,)
"""Frames that are decoded at once: the first time, the second time, and from then on."""

S = TypeVar("S")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """What one frame has given. sound: float32, (n_samples,), None while a block is filling. stop: of the last."""

    sound: Audio | None
    stop: Stop | None


@dataclasses.dataclass(slots=True, eq=False)
class Saying:
    """One piece of text being said. codes: (C, 1) each, all that were made; the first `decoded` of them are sound."""

    handle: Handle
    stream: Stream
    codes: list[Tensor] = dataclasses.field(default_factory=list)
    decoded: int = 0
    blocks: int = 0
    stop: Stop | None = None

    @property
    def held(self) -> int:
        return len(self.codes) - self.decoded


class Synthesis:
    """rows: how many sayings may be open; most: how many of them advance at once, less after the memory ran out."""

    def __init__(self, checkpoint: Checkpoint, codec: Codec, loop: Loop, rows: int) -> None:
        self._checkpoint, self._codec, self._loop = checkpoint, codec, loop
        self._blocks = CUDA_BLOCKS if codec.device.type == "cuda" else CPU_BLOCKS
        self.most = rows

    @property
    def length(self) -> int:
        """Positions that a prompt and what it is answered with have together."""
        return self._loop.length

    def prompt(self, text: str, spoken: Sequence[Spoken]) -> Tensor:
        """The prompt that asks for a text, after what was said before. Raises: InvalidInput."""
        return self._checkpoint.prompt(text, spoken)

    def check(self, prompt: Tensor, frames: int) -> None:
        """Whether a prompt leaves room for so many frames. Raises: TextTooLong."""
        self._loop.check(prompt, frames)

    def say(self, prompt: Tensor, sampling: Sampling, max_new_tokens: int) -> Saying:
        """Begin to say a prompt. Raises: TextTooLong, InvalidInput, QueueFull."""
        frames = min(max_new_tokens, self._codec.longest_frames or max_new_tokens)
        return Saying(self._loop.open(Utterance(prompt, sampling, frames)), self._codec.stream())

    def close(self, saying: Saying) -> None:
        """Give the saying's row back. Closing twice is closing once."""
        self._loop.close(saying.handle)

    def advance(self, sayings: Sequence[Saying]) -> list[Advance | Exception]:
        """Make one frame of each saying. Results in order; one that failed has its exception there."""
        frames = self._apart(lambda some: self._loop.step([saying.handle for saying in some]), sayings)
        due: list[Saying] = []
        for saying, frame in zip(sayings, frames, strict=True):
            if isinstance(frame, Frame):
                self._keep(saying, frame)
                if saying.held and (saying.stop or saying.held >= self._block(saying)):
                    due.append(saying)
        batches = [due] if self._codec.device.type == "cuda" else [[saying] for saying in due]
        decoded = [sound for batch in batches if batch for sound in self._apart(self._decode, batch)]
        sounds = dict(zip(due, decoded, strict=True))
        return [
            frame if isinstance(frame, Exception) else _advance(saying, sounds.get(saying))
            for saying, frame in zip(sayings, frames, strict=True)
        ]

    def alone(self, work: Callable[[S], T], one: S) -> T | Exception:
        """The result of work on one item, or the exception that it raised."""
        (result,) = self._apart(lambda some: [work(each) for each in some], [one])
        return result

    def _keep(self, saying: Saying, frame: Frame) -> None:
        saying.stop = frame.stop
        if frame.codes is not None:
            saying.codes.append(frame.codes.reshape(-1, 1))

    def _block(self, saying: Saying) -> int:
        return self._blocks[min(saying.blocks, len(self._blocks) - 1)]

    def _decode(self, sayings: Sequence[Saying]) -> list[Audio]:
        codes = [torch.cat(saying.codes[saying.decoded :], dim=1) for saying in sayings]
        sounds = self._codec.push_together([saying.stream for saying in sayings], codes)
        for saying in sayings:
            saying.decoded = len(saying.codes)
            saying.blocks += 1
        return sounds

    def _apart(self, work: Callable[[Sequence[S]], list[T]], some: Sequence[S]) -> list[T | Exception]:
        """Results in order. Where all together fail they are tried in halves, down to the one that is to blame."""
        return ADVICE.in_halves(work, some, self._take_fewer, blame=True)

    def _take_fewer(self, sayings: int) -> None:
        self.most = min(self.most, sayings)


def _advance(saying: Saying, sound: Audio | Exception | None) -> Advance | Exception:
    return sound if isinstance(sound, Exception) else Advance(sound, saying.stop)
