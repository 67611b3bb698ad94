"""The codec of OpenAudio S1: our decoding equals that of the package, whose network it wraps, and streams."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.errors import InvalidInput, ModelUnavailable
from tests.checkpoints_codec import make_dac, noise
from workers.fish import dac
from workers.fish.codec import Codec
from workers.fish.codec_files import load_codec
from workers.fish.decoding import RowDecoder
from workers.fish.firefly import folded

TOLERANCE = 1e-4
FRAMES = 140
"""More than the window of 128 that the transformer after the codes sees."""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fish_speech") is None, reason="the package fish-speech is not installed"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("s1")
    yield folder, make_dac(folder, seed=4)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def codec(made: tuple[Path, Any]) -> Codec:
    return load_codec(made[0])


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    source = np.random.RandomState(1)
    return torch.from_numpy(np.vstack([source.randint(0, 128, (1, FRAMES)), source.randint(0, 64, (9, FRAMES))]))


@pytest.fixture(scope="module")
def published(made: tuple[Path, Any], codes: torch.Tensor) -> Any:
    with torch.inference_mode():
        sound, _ = made[1].decode(codes[None], torch.tensor([FRAMES]))
    return sound[0, 0].numpy()


def test_codes_are_those_of_the_package(made: tuple[Path, Any], codec: Codec) -> None:
    audio = noise(2, 30_000)
    with torch.inference_mode():
        expected, _ = made[1].encode(torch.from_numpy(audio)[None])
    codes = codec.encode(audio)
    assert codes.shape == (codec.codebooks, 15) == (10, 15)
    assert (codes == expected[0]).float().mean() >= 0.999


def test_sound_is_that_of_the_package(codec: Codec, codes: torch.Tensor, published: Any) -> None:
    sound = codec.decode(codes)
    assert (codec.sample_rate, codec.frame_length) == (44_100, 2048)
    assert sound.shape == published.shape
    assert published.std() > 0.1  # or being close to it would say nothing
    assert np.abs(sound - published).max() < TOLERANCE


@pytest.mark.parametrize("pieces", [(1,) * 10 + (130,), (12, 1, 117, 5, 5)], ids=["frames", "pieces"])
def test_joined_pieces_of_a_stream_are_the_whole(
    codec: Codec, codes: torch.Tensor, published: Any, pieces: tuple[int, ...]
) -> None:
    stream = codec.stream()
    joined = [stream.push(piece) for piece in codes.split(pieces, dim=1)]
    assert np.abs(np.concatenate([*joined, stream.flush()]) - published).max() < TOLERANCE


def test_streams_of_different_ages_are_decoded_together(codec: Codec, codes: torch.Tensor, published: Any) -> None:
    old, young = codec.stream(), codec.stream()
    old.push(codes[:, :130])
    sounds = codec.push_together([old, young], [codes[:, 130:133], codes[:, :3]])
    assert np.abs(sounds[0] - published[130 * 2048 : 133 * 2048]).max() < TOLERANCE
    assert np.abs(sounds[1] - published[: 3 * 2048]).max() < TOLERANCE


def test_rows_of_different_ages_are_decoded_together(codec: Codec, codes: torch.Tensor, published: Any) -> None:
    """One beyond the transformer's window; the spare row, which fills the shape, begins anew each time."""
    decoder = RowDecoder(codec, 4, (2,), lambda step: step)
    heard = [decoder.push([1], codes[None, :, first : first + 2])[0] for first in range(0, 130, 2)]
    for row in (2, 0):
        decoder.begin(row)
    old, young, other = decoder.push([1, 2, 0], torch.stack([codes[:, 130:132], codes[:, :2], codes[:, 5:7]]))
    assert np.abs(np.concatenate([*heard, old]) - published[: 132 * 2048]).max() < TOLERANCE
    assert np.abs(young - published[: 2 * 2048]).max() < TOLERANCE
    assert np.abs(other - codec.decode(codes[:, 5:7])).max() < TOLERANCE
    assert not any(held[4].any() for held in decoder._memories._held.values())


def test_what_a_stream_remembers_does_not_grow(codec: Codec, codes: torch.Tensor) -> None:
    stream = codec.stream()
    stream.push(codes[:, :1])
    before = stream.memory.nbytes()
    stream.push(codes)
    assert stream.memory.nbytes() == before


def test_the_package_s_own_sizes_are_read_from_their_weights() -> None:
    """Of its configs/modded_dac_vq.yaml, on the meta device."""
    network = dac.package()
    with torch.device("meta"):
        full = full_size(network)
        weights = {name: value for name, value in folded(full.state_dict()).items() if "causal_mask" not in name}
        shapes = {name: tuple(value.shape) for name, value in weights.items() if "freqs_cis" not in name}
        ours = dac.built(network, shapes)
    dac.without_tables(network, ours)
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == shapes
    assert (ours.frame_length, ours.sample_rate) == (2048, 44_100)


def full_size(network: Any) -> Any:
    def transformer() -> Any:
        sizes = network.modded_dac.ModelArgs(
            block_size=4096, n_layer=8, n_head=16, dim=1024, intermediate_size=3072, head_dim=64
        )
        return network.modded_dac.WindowLimitedTransformer(sizes, input_dim=1024, window_size=128)

    quantizer = network.rvq.DownsampleResidualVectorQuantize(
        input_dim=1024,
        n_codebooks=9,
        codebook_size=1024,
        codebook_dim=8,
        downsample_factor=(2, 2),
        pre_module=transformer(),
        post_module=transformer(),
        semantic_codebook_size=4096,
    )
    return network.modded_dac.DAC(
        encoder_dim=64,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=1536,
        decoder_rates=[8, 8, 4, 2],
        quantizer=quantizer,
        encoder_transformer_layers=[0, 0, 0, 4],
        decoder_transformer_layers=[4, 0, 0, 0],
        transformer_general_config=partial(network.modded_dac.ModelArgs, block_size=16_384, head_dim=64),
    )


def test_longer_than_there_are_positions_is_refused(codec: Codec, codes: torch.Tensor) -> None:
    stream = codec.stream()
    stream.frames = 4096
    with pytest.raises(InvalidInput, match="too long"):
        stream.push(codes[:, :1])


def test_weights_of_something_else_are_told(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "codec.pth")
    with pytest.raises(ModelUnavailable, match="does not hold the weights"):
        load_codec(tmp_path)


def test_without_the_package_the_answer_is_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    torch.save({}, tmp_path / "codec.pth")
    with pytest.raises(ModelUnavailable, match=r"requirements-fish\.txt"):
        load_codec(tmp_path)


def test_importing_the_package_leaves_no_stand_in_behind() -> None:
    dac.package()
    assert not {"audiotools", "dac"} & set(sys.modules)
