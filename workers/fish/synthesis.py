"""From texts to sound, a frame at a time: the loop and the codec as one, for the speech of several requests at once.

    say(prompt) ─▶ Saying ─▶ advance([saying, …]): one frame each ─▶ loop.step ─▶ codes held back ─▶ decoder.push
    close(saying)                                                        in blocks, the first ones short

Several frames decoded at once cost hardly more than one, so frames wait until they are a block. On a CPU blocks grow in
a fixed way and each saying is decoded by itself: that costs little beside the model, and a text's sound is the same in
every attempt, whatever other texts share the batch. On a GPU the blocks of all sayings that are due are decoded
together, and a saying's grow as far as it is ahead of its listener, so that few have their sound at once and many share
the device well.

One thread advances. `say` and `close` may be called beside it by others: they only take and give back a row. A batch
that does not fit into the device's memory is tried again in halves. Sequences and decoding are halved apart, so that no
sequence makes a frame twice.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from workers.fish.checkpoint import Checkpoint
from workers.fish.codec import Audio, Codec
from workers.fish.decoding import RowDecoder
from workers.fish.generate import Frame, Handle, Loop, Stop, Utterance
from workers.fish.params import ADVICE
from workers.fish.prompt import Grid, Spoken
from workers.fish.sampling import Sampling

CPU_BLOCKS = (1, 2, 4)
"""Frames that are decoded at once: the first time, the second time, and from then on."""
CUDA_BLOCKS = (1, 2, 4, 8)
"""The same, as far as a saying is ahead; also what the rest of one that ends is decoded in."""

S = TypeVar("S")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """What one frame has given. sound: float32, (n_samples,), None while a block is filling. stop: of the last."""

    sound: Audio | None
    stop: Stop | None


@dataclasses.dataclass(slots=True, eq=False)
class Saying:
    """One piece of text being said. codes: (C, 1) each, all that were made; the first `decoded` of them are sound.

    heard: when its first sound was given, by the synthesis' clock.
    """

    handle: Handle
    codes: list[Tensor] = dataclasses.field(default_factory=list)
    decoded: int = 0
    blocks: int = 0
    heard: float | None = None
    stop: Stop | None = None

    @property
    def held(self) -> int:
        return len(self.codes) - self.decoded


def block_ahead(frames: float) -> int:
    """How many frames are decoded next where a listener has so many yet to hear: while they gather, half run out."""
    return max((block for block in CUDA_BLOCKS if 2 * block <= frames), default=CUDA_BLOCKS[0])


class Synthesis:
    """decoder: of as many rows as the loop; clock: seconds."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        codec: Codec,
        loop: Loop,
        decoder: RowDecoder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoint, self._codec, self._loop, self._decoder = checkpoint, codec, loop, decoder
        self._clock = clock
        self._together = codec.device.type == "cuda"
        self.most = loop.free
        """How many sayings advance at once; less after the memory ran out."""

    @property
    def length(self) -> int:
        """Positions that a prompt and what it is answered with have together."""
        return self._loop.length

    def prompt(self, text: str, spoken: Sequence[Spoken]) -> Grid:
        """The prompt that asks for a text, after what was said before. Raises: InvalidInput."""
        return self._checkpoint.grid(text, spoken)

    def check(self, prompt: Grid, frames: int) -> None:
        """Whether a prompt leaves room for so many frames. Raises: TextTooLong."""
        self._loop.check(prompt.joined(), frames)

    def say(self, prompt: Grid, sampling: Sampling, max_new_tokens: int, again: bool) -> Saying:
        """Begin to say a prompt. again: others will have its preamble. Raises: TextTooLong, InvalidInput, QueueFull."""
        frames = min(max_new_tokens, self._codec.longest_frames or max_new_tokens)
        preamble = prompt.preamble if again else 0
        return Saying(self._loop.open(Utterance(prompt.joined(), sampling, frames, preamble)))

    def close(self, saying: Saying) -> None:
        """Give the saying's row back. Closing twice is closing once."""
        self._loop.close(saying.handle)

    def advance(self, sayings: Sequence[Saying]) -> list[Advance | Exception]:
        """Make one frame of each saying, of those at their end none. In order; one that failed has its exception."""
        frames = self._apart(lambda some: self._loop.step([saying.handle for saying in some]), sayings)
        due: list[Saying] = []
        for saying, frame in zip(sayings, frames, strict=True):
            if isinstance(frame, Frame) and not saying.handle.closed:
                self._keep(saying, frame)
                if saying.held and (saying.stop or saying.held >= self._block(saying)):
                    due.append(saying)
        sounds = self._sounds(due)
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
        if not self._together:
            return CPU_BLOCKS[min(saying.blocks, len(CPU_BLOCKS) - 1)]
        if saying.heard is None:
            return CUDA_BLOCKS[0]
        return block_ahead(saying.decoded - (self._clock() - saying.heard) * self._codec.frame_rate)

    def _sounds(self, due: Sequence[Saying]) -> dict[Saying, Audio | Exception]:
        """What was held back of these."""
        sounds: dict[Saying, Audio | Exception] = {}
        for frames, batch in self._batches(due):
            decoded = self._apart(partial(self._decode, frames), batch) if batch else []
            for saying, sound in zip(batch, decoded, strict=True):
                sounds[saying] = _joined(sounds.get(saying), sound)
        return sounds

    def _batches(self, due: Sequence[Saying]) -> Iterator[tuple[int, Sequence[Saying]]]:
        """How many frames of whom are decoded at once. Goes on when they are."""
        if self._together:
            for block in reversed(CUDA_BLOCKS):
                yield block, [saying for saying in due if saying.held >= block]
        else:
            for saying in due:
                yield saying.held, [saying]

    def _decode(self, frames: int, sayings: Sequence[Saying]) -> list[Audio]:
        for saying in sayings:
            if not saying.decoded:
                self._decoder.begin(saying.handle.row)
        codes = [torch.cat(saying.codes[saying.decoded : saying.decoded + frames], dim=1) for saying in sayings]
        sounds = self._decoder.push([saying.handle.row for saying in sayings], torch.stack(codes))
        for saying in sayings:
            saying.heard = self._clock() if saying.heard is None else saying.heard
            saying.decoded += frames
            saying.blocks += 1
        return sounds

    def _apart(self, work: Callable[[Sequence[S]], list[T]], some: Sequence[S]) -> list[T | Exception]:
        """Results in order. Where all together fail they are tried in halves, down to the one that is to blame."""
        return ADVICE.in_halves(work, some, self._take_fewer, blame=True)

    def _take_fewer(self, sayings: int) -> None:
        self.most = min(self.most, sayings)


def _joined(before: Audio | Exception | None, sound: Audio | Exception) -> Audio | Exception:
    if before is None or isinstance(sound, Exception):
        return sound
    return before if isinstance(before, Exception) else np.concatenate([before, sound])


def _advance(saying: Saying, sound: Audio | Exception | None) -> Advance | Exception:
    return sound if isinstance(sound, Exception) else Advance(sound, saying.stop)
