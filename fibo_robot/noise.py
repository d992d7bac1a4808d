"""Noise without state: random numbers as a function of an episode's seed, its decision and a place in a row.

A policy that draws from generators must keep one per episode and step each on its own. Here the generator is
counter-based: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) scrambles
a counter under a key. The episode's seed is the key, the decision's number and the place are the counter, so
what an episode draws never depends on who runs beside it or on where its row stands, and a thousand episodes
are one chain of tensor operations.

Every operation is on integers, or one that IEEE 754 rounds correctly (+, -, *, /, square root), so the bits
are the same on every device. Library functions such as `log` and `cos` differ in their last bits between
devices, and between the middle and the end of one vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Multipliers and key increments of Philox4x32 (Salmon et al., section 3.3; Random123's philox.h).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF
# The two kinds of noise never share a counter: a decision may draw both.
_UNIFORM, _NORMAL = 0, 1


def philox4x32(counters: Tensor, keys: Tensor) -> Tensor:
    """Ten rounds of Philox4x32.

    Args:
        counters: int64 `(..., 4)`, every entry a 32-bit word in [0, 2^32).
        keys: int64 `(..., 2)`, the same; leading axes broadcast.

    Returns:
        int64 `(..., 4)`: four random 32-bit words for each counter.
    """
    device = counters.device
    multipliers = torch.tensor(_MULTIPLIERS, device=device)
    steps = torch.tensor(_KEY_STEPS, device=device)
    # The first round multiplies words 0 and 2; each round swaps which product goes where.
    even, odd = counters[..., 0::2], counters[..., 1::2]
    for number in range(_ROUNDS):
        # Products wrap modulo 2^64, which leaves the bits of the unsigned product.
        product = even * multipliers
        high, low = (product >> 32) & _MASK, product & _MASK
        even, odd = high.flip(-1) ^ odd ^ ((keys + number * steps) & _MASK), low.flip(-1)
    return torch.stack([even, odd], dim=-1).flatten(-2)


def uniform(
    seeds: Sequence[int],
    decisions: Sequence[int],
    shape: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24: float32 `(len(seeds), *shape)`.

    Args:
        seeds: an episode's seed for each row, in [-2^63, 2^63).
        decisions: for each row, how many decisions its episode has made before.
        shape: of one row; a row's numbers depend on their place in it in row-major order alone.
        device: where they are computed.
    """
    words = _words(seeds, decisions, math.prod(shape), _UNIFORM, device)
    return ((words >> 8).to(torch.float32) * 2.0**-24).reshape(len(seeds), *shape)


def normal(
    seeds: Sequence[int],
    decisions: Sequence[int],
    shape: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal numbers, at most 6.7 from 0: float32 `(len(seeds), *shape)`; see :func:`uniform`.

    By the method of Box and Muller (Annals of Mathematical Statistics 29, 1958), in double precision: one
    word gives the radius, another the direction, and they make two numbers.
    """
    count = math.prod(shape)
    words = _words(seeds, decisions, count + count % 2, _NORMAL, device)
    first, second = words[:, 0::2], words[:, 1::2]
    radius = torch.sqrt(-2.0 * _log((first + 1).to(torch.float64) * 2.0**-32))
    # Thirty bits turn within the first quarter, the other two are the signs: every direction is as likely.
    quarter_turns = (second >> 2).to(torch.float64) * 2.0**-30
    cosine, sine = _quarter_turn(quarter_turns)
    signs = 1 - 2 * torch.stack([second & 1, (second >> 1) & 1], dim=-1).to(torch.float64)
    pairs = radius[..., None] * torch.stack([cosine, sine], dim=-1) * signs
    return pairs.flatten(1)[:, :count].to(torch.float32).reshape(len(seeds), *shape)


@dataclass(frozen=True)
class Noise:
    """What the episodes of one batch may draw in their present decisions.

    Attributes:
        seeds: an episode's seed for each row.
        decisions: for each row, how many decisions its episode has made before.
        device: where the numbers are wanted.
    """

    seeds: tuple[int, ...]
    decisions: tuple[int, ...]
    device: torch.device

    def uniform(self, *shape: int) -> Tensor:
        """:func:`uniform` numbers, `(B, *shape)`."""
        return uniform(self.seeds, self.decisions, shape, self.device)

    def normal(self, *shape: int) -> Tensor:
        """:func:`normal` numbers, `(B, *shape)`."""
        return normal(self.seeds, self.decisions, shape, self.device)


def _words(
    seeds: Sequence[int], decisions: Sequence[int], count: int, kind: int, device: torch.device | str
) -> Tensor:
    """Random words, int64 `(rows, count)`: the seed is the key, (block, kind, decision) the counter."""
    rows = torch.tensor([list(seeds), list(decisions)], dtype=torch.int64, device=device)
    low, high = rows & _MASK, (rows >> 32) & _MASK
    blocks = torch.arange(-(-count // 4), device=device)
    counters = torch.stack(
        torch.broadcast_tensors(blocks, blocks.new_tensor(kind), low[1, :, None], high[1, :, None]), -1
    )
    keys = torch.stack([low[0], high[0]], dim=-1)
    return philox4x32(counters, keys[:, None]).flatten(1)[:, :count]


def _log(values: Tensor) -> Tensor:
    """Natural logarithm of float64 values in (0, 1], to about 1e-15."""
    mantissa, exponent = torch.frexp(values)
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, 2 * mantissa, mantissa)  # in [sqrt 1/2, sqrt 2)
    exponent = exponent.to(torch.float64) - small.to(torch.float64)
    # log m = 2 artanh((m - 1) / (m + 1)), whose argument is at most 0.172: ten terms leave less than 1e-16.
    ratio = (mantissa - 1) / (mantissa + 1)
    series = _polynomial(ratio * ratio, [2 / (2 * term + 1) for term in range(10)])
    return ratio * series + exponent * math.log(2)


def _quarter_turn(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of `turns` in [0, 1) quarter turns, float64, to about 1e-15."""
    # Around the middle of the quarter the angle is at most pi/4, where nine terms leave less than 1e-17.
    angle = (turns - 0.5) * (math.pi / 2)
    square = angle * angle
    cosine = _polynomial(square, [(-1) ** n / math.factorial(2 * n) for n in range(9)])
    sine = angle * _polynomial(square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(9)])
    half = math.sqrt(0.5)  # turned on by an eighth
    return (cosine - sine) * half, (cosine + sine) * half


def _polynomial(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    """`c0 + c1 x + c2 x^2 + ...` by Horner's rule, a rounding after every operation."""
    result = torch.full_like(values, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * values + coefficient
    return result
