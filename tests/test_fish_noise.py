"""The noise that tokens are drawn with: how it is distributed, and that it follows from its place alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from workers.fish.noise import exponential, key_of, places

SIZES = (1026, 1024, 1024)
GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def noise(seeds: list[int], frames: list[int]) -> npt.NDArray[np.float32]:
    """(B, N)."""
    keys = torch.tensor([key_of(seed) for seed in seeds])
    made: npt.NDArray[np.float32] = exponential(keys, torch.tensor(frames), places(SIZES)).numpy()
    return made


def split_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_it_is_the_published_generator_read_at_a_place() -> None:
    """Of SplitMix64, in whole numbers of Python."""
    seed, frame, book, choice = 2**63 - 1, 77, 2, 1000
    place = (frame << 32) + (book << 24) + choice
    bits = split_mix((split_mix(seed ^ GOLDEN) + GOLDEN * place) & MASK) >> 41
    expected = -math.log1p(-(bits + 0.5) / 2**23)
    assert noise([seed], [frame])[0, SIZES[0] + SIZES[1] + choice] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("over", ["choices", "frames", "seeds"])
def test_it_is_exponential(over: str) -> None:
    """Mean, variance, and the largest distance of the distribution functions (Kolmogorov and Smirnov)."""
    if over == "choices":
        drawn = noise([5], [9])[0]
    elif over == "frames":
        drawn = noise([5] * 3000, list(range(3000)))[:, 1500]
    else:
        drawn = noise(list(range(3000)), [3] * 3000)[:, 1500]
    count = len(drawn)
    assert abs(drawn.mean() - 1) < 4 / math.sqrt(count)
    assert abs(drawn.var() - 1) < 4 * math.sqrt(8 / count)
    expected = 1 - np.exp(-np.sort(drawn).astype(np.float64))
    steps = np.arange(count + 1) / count
    distance = max(np.abs(expected - steps[:-1]).max(), np.abs(expected - steps[1:]).max())
    assert distance < 1.95 / math.sqrt(count)  # a true one is further off in one of a thousand


def test_the_whole_of_it_is_exponential() -> None:
    drawn = noise([1, 2, 3, 2**62] * 50, list(range(200))).ravel()
    assert abs(drawn.mean() - 1) < 4 / math.sqrt(len(drawn))
    for above in (0.01, 0.1, 1.0, 5.0, 9.0):
        share = math.exp(-above)
        assert abs((drawn > above).mean() - share) < 4 * math.sqrt(share * (1 - share) / len(drawn))
    assert drawn.min() > 0
    assert drawn.max() < 17


def test_neighbours_have_nothing_to_do_with_each_other() -> None:
    """By choice, codebook, frame and seed, also where those are of one bit's difference."""
    first = noise([5] * 64, list(range(64)))
    pairs = {
        "choice": (first[:, :1024], first[:, 1:1025]),
        "codebook": (first[:, 1026:2050], first[:, 2050:]),
        "frame": (first[:-1], first[1:]),
        "frames of one bit's difference": (first[:32], first[32:]),
        "seed": (first, noise([6] * 64, list(range(64)))),
        "the seed's highest bit": (first, noise([5 + 2**62] * 64, list(range(64)))),
        "seed and frame exchanged": (noise(list(range(64)), [100] * 64), noise([100] * 64, list(range(64)))),
    }
    for what, (one, other) in pairs.items():
        together = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(together) < 4.5 / math.sqrt(one.size), what


def test_no_two_places_of_a_seed_share_their_noise() -> None:
    """As far as 23 bits can tell: as many are equal as chance would have it."""
    drawn = noise([11] * 20, list(range(20))).ravel()
    pairs = len(drawn) * (len(drawn) - 1) / 2 / 2**23
    equal = len(drawn) - len(np.unique(drawn))
    assert abs(equal - pairs) < 6 * math.sqrt(pairs)


def test_company_changes_nothing() -> None:
    alone = noise([3], [4])
    assert np.array_equal(noise([1, 3, 2], [9, 4, 0])[1:2], alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same() -> None:
    keys, frames = torch.tensor([key_of(1), key_of(2)]), torch.tensor([0, 900])
    drawn = exponential(keys.cuda(), frames.cuda(), places(SIZES).cuda()).cpu()
    torch.testing.assert_close(drawn, exponential(keys, frames, places(SIZES)), rtol=1e-5, atol=0)
