"""The two families of fish-speech models, and in what their published code differs apart from the model's sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.fish import published
from workers.fish.prompt import Grid, Spoken, fish_speech_15, openaudio_s1
from workers.fish.sampling import Sampling
from workers.runtime.hub import Layout


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """layout: the published files, by which a folder's family is known; codec: which of them holds the codec.

    prompt: writes a request into a grid. slow_window: of the last frames, int64, (B, 1 + C, 16), the ids that the
    repetition penalty falls on in the slow transformer. rules: the type that temperature, top-p and penalty are rounded
    to. keeps_first, keeps_last: whether the first and the last frame of a sequence belong to its codes.
    """

    name: str
    layout: Layout
    codec: str
    prompt: Callable[[Grid, str, Sequence[Spoken]], None]
    slow_window: Callable[[Tensor], Tensor]
    rules: torch.dtype
    keeps_first: bool
    keeps_last: bool
    defaults: Sampling


FISH_SPEECH_15 = Family(
    name="fish-speech 1.5",
    layout=published.FISH_SPEECH_15,
    codec=published.FIREFLY,
    prompt=fish_speech_15,
    slow_window=lambda frames: frames[:, 0],
    rules=torch.float32,
    keeps_first=False,  # y[1:, prompt_length + 1 :]
    keeps_last=True,
    defaults=Sampling(temperature=0.7, top_p=0.7, repetition_penalty=1.2),
)

OPENAUDIO_S1 = Family(
    name="OpenAudio S1",
    layout=published.OPENAUDIO_S1,
    codec=published.DAC,
    prompt=openaudio_s1,
    # `previous_tokens[:, 0]`: all tokens of the window's oldest frame, not the oldest tokens of the first codebook.
    slow_window=lambda frames: frames[:, :, 0],
    rules=torch.bfloat16,
    keeps_first=True,  # y[1:, prompt_length:-1]
    keeps_last=False,
    defaults=Sampling(temperature=0.8, top_p=0.8, repetition_penalty=1.1),
)

FAMILIES = (FISH_SPEECH_15, OPENAUDIO_S1)
