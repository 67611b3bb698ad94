"""Text to sound, the loop and the codec together: what is heard first, and that the pieces are the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.checkpoints_codec import fixture, make_firefly
from tests.checkpoints_fish import make_fish
from tests.drive import folders
from workers.fish.checkpoint import load
from workers.fish.codec_files import load_codec
from workers.fish.generate import Loop, Utterance
from workers.fish.published import locate
from workers.fish.sampling import Sampling

pytest.importorskip("fish_speech.tokenizer", reason="the fish-speech package is not installed (requirements-fish.txt)")

FIRST_SOUND_FRAMES = 12


def test_sound_begins_with_the_first_frames_and_its_pieces_are_the_whole(tmp_path: Path) -> None:
    figures = fixture("firefly.json")
    codec = load_codec(make_firefly(tmp_path / "codec", figures["shapes"], figures["seed"]))
    folder = make_fish(tmp_path / "fish", "1.5", num_codebooks=codec.codebooks)
    checkpoint = load(locate(str(folder), folders(tmp_path)), torch.device("cpu"))
    loop, stream = Loop(checkpoint, rows=1), codec.stream()
    handle = loop.open(Utterance(checkpoint.prompt("Hello.", []), Sampling(seed=3), max_new_tokens=40))
    codes: list[torch.Tensor] = []
    pieces: list[NDArray[np.float32]] = []
    steps_to_sound = None
    for step in range(1, 42):
        [frame] = loop.step([handle])
        if frame.codes is not None:
            codes.append(torch.as_tensor(frame.codes).reshape(-1, 1))
            pieces.append(stream.push(codes[-1]))
            if steps_to_sound is None and len(pieces[-1]):
                steps_to_sound = step
        if frame.stop:
            break
    pieces.append(stream.flush())
    assert steps_to_sound is not None
    assert steps_to_sound <= FIRST_SOUND_FRAMES
    whole = codec.decode(torch.cat(codes, dim=1))
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)
