"""Noise is what Philox defines, has the distribution it claims, and depends on episode and decision alone."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fibo_robot.noise import _log, _quarter_turn, normal, philox4x32, uniform

# Counter, key and output of philox4x32-10 in Random123's known-answer tests (file kat_vectors).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(device: str, counter: tuple, key: tuple, expected: tuple) -> None:
    given = torch.tensor(counter, device=device), torch.tensor(key, device=device)
    assert philox4x32(*given).tolist() == list(expected)


def test_counters_and_keys_broadcast() -> None:
    counters, keys = (torch.tensor([case[part] for case in KNOWN_ANSWERS]) for part in (0, 1))
    table = philox4x32(counters[:, None], keys[None])
    for place, (_, _, expected) in enumerate(KNOWN_ANSWERS):
        assert table[place, place].tolist() == list(expected)
    assert len({tuple(row) for row in table.flatten(0, 1).tolist()}) == 9


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(), (5,), (8, 7)])
def test_a_row_depends_on_its_seed_and_decision_alone(draw, shape: tuple[int, ...]) -> None:
    seeds, decisions = [3, 100_000, 7, 2**40 + 3, -1], [0, 5, 5, 1, 0]
    together = draw(seeds, decisions, shape)
    assert together.shape == (5, *shape) and together.dtype == torch.float32
    order = [4, 2, 0, 3, 1]
    assert torch.equal(draw([seeds[i] for i in order], [decisions[i] for i in order], shape), together[order])
    for row in range(5):
        assert torch.equal(draw(seeds[row : row + 1], decisions[row : row + 1], shape)[0], together[row])
    assert len(together.reshape(5, -1)[:, 0].unique()) == 5


@pytest.mark.parametrize("draw", [uniform, normal])
def test_seeds_decisions_and_kinds_give_different_numbers(draw) -> None:
    rows = draw([1, 1, 2, 1 + 2**32], [0, 1, 0, 0], (64,))
    assert len(rows.flatten().unique()) > 250  # of 256; two uniform ones of 24 bits may agree by chance
    assert torch.equal(draw([1], [0], (40,))[0], rows[0, :40])


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("draw", [uniform, normal])
def test_the_bits_are_the_same_on_the_gpu(draw) -> None:
    seeds, decisions = list(range(1024)), [seed % 50 for seed in range(1024)]
    here, there = (draw(seeds, decisions, (16, 10), device) for device in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu())


def test_the_position_in_a_tensor_does_not_change_the_bits() -> None:
    """Vectorised library functions round the last few numbers of a tensor in another way than the others."""
    whole = normal([9], [2], (4097,))[0]
    for count in (1, 2, 3, 5, 7, 9, 31, 1023):
        assert torch.equal(normal([9], [2], (count,))[0], whole[:count])


def test_numbers_have_the_distribution_they_claim() -> None:
    seeds, decisions = list(range(500)), [seed % 7 for seed in range(500)]
    flat = uniform(seeds, decisions, (400,)).flatten().double().numpy()
    assert flat.min() >= 0 and flat.max() < 1
    assert stats.kstest(flat, "uniform").pvalue > 0.01
    drawn = normal(seeds, decisions, (400,)).double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01
    pairs = drawn.unflatten(1, (200, 2))
    # Neither neighbours in a row nor rows of neighbouring seeds know of each other: 5 standard errors.
    for one, other in (
        (pairs[..., 0], pairs[..., 1]),
        (drawn[1:], drawn[:-1]),
        (drawn[:, 4:], drawn[:, :-4]),
    ):
        correlation = np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 5 / math.sqrt(one.numel())
    tail = (drawn.abs() > 3).double().mean().item()
    assert tail == pytest.approx(2 * stats.norm.sf(3), rel=0.15)


def test_logarithm_and_turns_are_those_of_the_library() -> None:
    values = torch.cat(
        [(torch.arange(1, 4000, dtype=torch.float64)) * 2.0**-32, torch.rand(4000).double(), torch.ones(1)]
    )
    torch.testing.assert_close(_log(values), values.log(), rtol=1e-14, atol=1e-16)
    turns = torch.cat([torch.rand(4000, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    cosine, sine = _quarter_turn(turns)
    torch.testing.assert_close(cosine, torch.cos(turns * math.pi / 2), rtol=0, atol=1e-15)
    torch.testing.assert_close(sine, torch.sin(turns * math.pi / 2), rtol=0, atol=1e-15)
