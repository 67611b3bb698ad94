"""The codecs: equal to the published code, streams equal to the whole, and what they say of wrong files and sounds.

The figures in tests/fixtures were made by the published code with the weights that `tests.checkpoints_codec` makes from
their names; `tests/make_codec_fixtures.py` says which commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from contract.errors import InvalidInput, ModelUnavailable
from tests.checkpoints_codec import FIREFLY_FILE, fixture, make_firefly, noise, random_weights, vectors
from workers.fish.causal import CausalConv, CausalTransposedConv, Memory
from workers.fish.codec import Codec
from workers.fish.codec_files import find_codec, load_codec
from workers.fish.decoding import RowDecoder
from workers.fish.firefly import Firefly, FireflyCodec, Sizes, folded
from workers.fish.fsq import GroupedFsq
from workers.fish.graphs import captured_by
from workers.runtime.cuda_graphs import CudaGraphs

FIGURES = fixture("firefly.json")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_firefly(tmp_path_factory.mktemp("model") / "fish", FIGURES["shapes"], FIGURES["seed"])


@pytest.fixture(scope="module")
def codec(folder: Path) -> Codec:
    return load_codec(folder)


def codes_of(codec: Codec, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 1000, (codec.codebooks, frames)))


def test_codes_are_those_of_the_published_code(codec: Codec) -> None:
    codes = codec.encode(noise(FIGURES["seed"], FIGURES["samples"])).numpy()
    assert codes.shape == np.shape(FIGURES["codes"])
    assert (codes == FIGURES["codes"]).mean() >= 0.999


def test_sound_is_that_of_the_published_code(codec: Codec) -> None:
    sound = codec.decode(np.array(FIGURES["codes"]))
    assert sound.dtype == np.float32
    assert sound.std() > 0.1  # or being close to it would say nothing
    assert np.abs(sound[:: FIGURES["every"]] - FIGURES["sound"]).max() < 1e-4


def test_residual_codes_are_those_of_the_published_quantiser() -> None:
    figures = fixture("residual_fsq.json")
    quantiser = GroupedFsq(24, 2, (8, 5, 5, 5), rounds=3)
    weights = random_weights(figures["shapes"], figures["seed"])
    quantiser.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    with torch.inference_mode():
        codes = quantiser.encode(torch.from_numpy(vectors(figures["seed"], 40, 24))[None])
        decoded = quantiser.decode(codes)[0]
    assert codes[0].tolist() == figures["codes"]
    assert np.abs(decoded[::8].flatten().numpy() - figures["decoded"]).max() < 1e-5


def test_the_published_layout_is_the_full_size() -> None:
    shapes = fixture("firefly_layout.json")["shapes"]
    with torch.device("meta"):
        weights = folded({name: torch.empty(shape) for name, shape in shapes.items()})
        sizes = Sizes.of({name: tuple(weight.shape) for name, weight in weights.items()})
        model = Firefly(sizes)
    assert {name: weight.shape for name, weight in weights.items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }
    assert (sizes.mels, sizes.depths, sizes.dims) == (160, (3, 3, 9, 3), (128, 256, 384, 512))
    assert (sizes.hop_length, sizes.factors, sizes.groups) == (512, (2, 2), 8)


def test_a_frame_is_2048_samples_and_a_started_frame_counts(codec: Codec) -> None:
    assert (codec.sample_rate, codec.frame_length, codec.codebooks) == (44_100, 2048, 8)
    assert codec.frame_rate == pytest.approx(21.53, abs=0.01)
    assert codec.encode(noise(1, 10 * 2048 + 512)).shape == (8, 11)
    assert codec.decode(codes_of(codec, 3)).shape == (3 * 2048,)


@pytest.mark.parametrize("pieces", [(1,) * 40, (12, 1, 7, 20), (40,)], ids=str)
def test_joined_pieces_of_a_stream_are_the_whole(codec: Codec, pieces: tuple[int, ...]) -> None:
    codes = codes_of(codec, 40)
    stream = codec.stream()
    joined = [stream.push(piece) for piece in codes.split(pieces, dim=1)]
    assert [len(piece) for piece in joined] == [2048 * frames for frames in pieces]
    assert np.abs(np.concatenate([*joined, stream.flush()]) - at_once(codec, codes)).max() < 1e-4


def at_once(codec: Codec, codes: torch.Tensor) -> Any:
    """Decoded by one call of the network, with no memory."""
    with torch.inference_mode():
        return codec._decode(codes[None])[0].float().numpy()


def test_what_a_stream_remembers_does_not_grow(codec: Codec) -> None:
    stream = codec.stream()
    stream.push(codes_of(codec, 1))
    before = stream.memory.nbytes()
    for seed in range(20):
        stream.push(codes_of(codec, 3, seed))
    assert stream.memory.nbytes() == before < 1e6
    assert sum(past.untyped_storage().nbytes() for past in stream.memory.pasts.values()) == before


def test_a_flushed_stream_starts_anew(codec: Codec) -> None:
    codes, stream = codes_of(codec, 4), codec.stream()
    first = stream.push(codes)
    stream.flush()
    assert np.array_equal(stream.push(codes), first)


def test_streams_pushed_together_are_those_pushed_alone(codec: Codec) -> None:
    """Of different ages, and of different lengths."""
    together, alone = ([codec.stream() for _ in range(4)] for _ in range(2))
    for step, lengths in enumerate([(0, 2, 1, 3), (2, 2, 2, 0), (5, 1, 1, 1)]):
        codes = [codes_of(codec, length, seed=10 * step + row) for row, length in enumerate(lengths)]
        for sound, stream, piece in zip(codec.push_together(together, codes), alone, codes, strict=True):
            expected = stream.push(piece)
            assert sound.shape == expected.shape
            assert np.abs(sound - expected).max(initial=0) < 1e-5


@pytest.mark.parametrize("shaped", [False, True], ids=["as they are", "as graphs hold them"])
def test_rows_go_on_where_their_sound_was(codec: Codec, shaped: bool) -> None:
    """Rows of different ages in any order, some passed over, one begun anew; by shapes of 1, 2 and 4 rows."""
    decoder = rows_of(codec, 4, shaped)
    codes = {row: codes_of(codec, 12, seed=row) for row in range(3)}
    heard: dict[int, list[Any]] = {row: [] for row in range(3)}
    decoder.begin(1)
    decoder.push([1], codes[0][None, :, :2])  # a sound before this one
    for row in range(3):
        decoder.begin(row)
    for rows, count in [((1,), 1), ((2, 1), 2), ((0, 2), 4), ((2, 0, 1), 2)]:
        starts = [sum(map(len, heard[row])) // 2048 for row in rows]
        pieces = [codes[row][:, start : start + count] for row, start in zip(rows, starts, strict=True)]
        for row, sound in zip(rows, decoder.push(rows, torch.stack(pieces)), strict=True):
            heard[row].append(sound)
    for row, pieces in heard.items():
        sound = np.concatenate(pieces)
        assert np.abs(sound - codec.decode(codes[row])[: len(sound)]).max() < 1e-4
    if shaped:
        assert decoder.shapes is not None
        assert set(decoder.shapes._steps) == {(1, 2), (1, 1), (2, 2), (2, 4), (4, 2)}


def rows_of(codec: Codec, rows: int, shaped: bool) -> RowDecoder:
    return RowDecoder(codec, rows, (1, 2, 4), (lambda step: step) if shaped else None)


def test_what_was_prepared_is_all_that_rows_need(codec: Codec) -> None:
    decoder = rows_of(codec, 3, shaped=True)
    decoder.prepare()
    assert decoder.shapes is not None
    assert len(decoder.shapes) == 9
    decoder.begin(0)
    assert np.abs(decoder.push([0], codes_of(codec, 4)[None])[0] - codec.decode(codes_of(codec, 4))).max() < 1e-4
    assert len(decoder.shapes) == 9


def test_decoding_asks_the_host_for_nothing() -> None:
    """In the published size, on tensors without numbers: a step that needed one, or one of the CPU's, would fail."""
    with torch.device("meta"):
        weights = folded({name: torch.empty(shape) for name, shape in fixture("firefly_layout.json")["shapes"].items()})
        sizes = Sizes.of({name: tuple(weight.shape) for name, weight in weights.items()})
        codec = FireflyCodec(Firefly(sizes), sizes, torch.device("meta"), torch.float16)
    decoder = rows_of(codec, 4, shaped=True)
    assert decoder.shapes is not None
    with torch.inference_mode():
        sound = decoder.shapes.of((3, 4))()
    assert (sound.shape, sound.dtype) == ((3, 4 * 2048), torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_on_a_gpu_decode_what_streams_do(folder: Path) -> None:
    codec = load_codec(folder, "cuda", torch.float32)
    decoder = RowDecoder(codec, 3, (1, 2, 4), captured_by(CudaGraphs(codec.device)))
    decoder.prepare()
    assert decoder.shapes is not None
    prepared, streams, codes = len(decoder.shapes), [codec.stream() for _ in range(3)], codes_of(codec, 7)
    for row in range(3):
        decoder.begin(row)
    for rows, piece in zip(([0, 1, 2], [2, 0], [1]), codes.split((1, 2, 4), dim=1), strict=True):
        expected = codec.push_together([streams[row] for row in rows], [piece] * len(rows))
        for sound, one in zip(decoder.push(rows, torch.stack([piece] * len(rows))), expected, strict=True):
            assert np.abs(sound - one).max() < 1e-3
    assert len(decoder.shapes) == prepared


def test_later_frames_change_nothing_before_them(codec: Codec) -> None:
    codes = codes_of(codec, 12)
    whole, prefix = at_once(codec, codes), at_once(codec, codes[:, :7])
    assert np.abs(whole[: len(prefix)] - prefix).max() < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        lambda: CausalConv(nn.Conv1d(3, 4, 7)),
        lambda: CausalConv(nn.Conv1d(3, 4, 3, dilation=5)),
        lambda: CausalConv(nn.Conv1d(3, 4, 4, stride=2)),
        lambda: CausalTransposedConv(nn.ConvTranspose1d(3, 4, 16, stride=8)),
        lambda: CausalTransposedConv(nn.ConvTranspose1d(3, 4, 2, stride=2)),
        lambda: CausalTransposedConv(nn.ConvTranspose1d(3, 4, 7, stride=2)),
    ],
    ids=["wide", "dilated", "strided", "longer", "no overlap", "odd overlap"],
)
def test_a_layer_goes_on_where_it_stopped(layer: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    made, x, memory = layer(), torch.randn(2, 3, 48), Memory()
    with torch.inference_mode():
        with memory.current():
            pieces = [made(piece) for piece in x.split((2, 30, 16), dim=-1)]
        assert torch.allclose(torch.cat(pieces, dim=-1), made(x), atol=1e-6)


def test_both_spellings_of_normalised_weights_are_read(folder: Path, codec: Codec, tmp_path: Path) -> None:
    weights = torch.load(folder / FIREFLY_FILE, weights_only=True)
    old = {
        f"generator.{name}".replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): weight
        for name, weight in weights.items()
    }
    torch.save({"state_dict": {**old, "discriminator.weight": torch.zeros(1)}}, tmp_path / FIREFLY_FILE)
    codes = codes_of(codec, 2)
    assert np.array_equal(load_codec(tmp_path).decode(codes), codec.decode(codes))


def test_safetensors_are_read(folder: Path, codec: Codec, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = torch.load(folder / FIREFLY_FILE, weights_only=True)
    save_file(weights, tmp_path / FIREFLY_FILE.replace(".pth", ".safetensors"))
    codes = codes_of(codec, 2)
    assert np.array_equal(load_codec(tmp_path).decode(codes), codec.decode(codes))


def test_a_folder_without_a_codec_says_which_file_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=FIREFLY_FILE):
        find_codec(tmp_path)


def test_a_damaged_file_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / FIREFLY_FILE).write_bytes((folder / FIREFLY_FILE).read_bytes()[:5000])
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load_codec(tmp_path)


@pytest.mark.parametrize("wrong", ["another model", "a layer missing", "a layer of another shape"])
def test_weights_of_something_else_are_told(folder: Path, tmp_path: Path, wrong: str) -> None:
    weights = torch.load(folder / FIREFLY_FILE, weights_only=True)
    if wrong == "another model":
        weights = {"encoder.weight": torch.zeros(2, 2)}
    elif wrong == "a layer missing":
        del weights["backbone.norm.bias"]
    else:
        weights["backbone.norm.bias"] = torch.zeros(3)
    torch.save(weights, tmp_path / FIREFLY_FILE)
    with pytest.raises(ModelUnavailable, match="does not hold the weights"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (np.zeros((2, 44_100), dtype=np.float32), "mono"),
        (np.zeros(500, dtype=np.float32), "too short"),
        (np.full(44_100, np.nan, dtype=np.float32), "finite"),
    ],
    ids=["stereo", "short", "not a number"],
)
def test_sound_of_the_wrong_form_is_refused(codec: Codec, audio: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        codec.encode(audio)


@pytest.mark.parametrize(
    "codes", [np.zeros((3, 5), dtype=int), np.zeros(8, dtype=int), np.zeros((8, 5), dtype=np.float32)], ids=str
)
def test_codes_of_the_wrong_form_are_refused(codec: Codec, codes: Any) -> None:
    with pytest.raises(InvalidInput, match="whole numbers"):
        codec.decode(codes)


def test_codes_beyond_the_codebook_count_as_its_last(codec: Codec) -> None:
    codes = torch.full((8, 2), 1023)
    assert np.array_equal(codec.decode(codes), codec.decode(torch.full((8, 2), 999)))


def test_no_frames_are_no_sound(codec: Codec) -> None:
    assert codec.decode(codes_of(codec, 0)).shape == (0,)
