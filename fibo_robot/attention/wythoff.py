"""Which offsets each head of Fibottention looks at: rows of the Wythoff array, in pure integers.

Head i (from 1) owns the Fibonacci-like sequence that starts row i of the Wythoff array. Every positive
integer stands in that array exactly once, so under the `paper` rule the heads' offset sets are disjoint.
Patch tokens j and k attend to each other in a head when |j - k| is one of its offsets; prefix tokens
(class, registers) are outside this count and always on. Source: Fibottention, arXiv 2406.19391, section 3.
"""

import random
from functools import lru_cache
from math import isqrt
from typing import Literal, get_args

from fibo_robot.attention.checks import require_choice
from fibo_robot.attention.errors import AttentionError

OffsetRule = Literal["paper", "modified", "robot_release"]
OFFSET_RULES: tuple[str, ...] = get_args(OffsetRule)

SMALLEST_WINDOW = 5  # w_min of the paper
WINDOW_SHARE = 3  # the last head's window is num_tokens // 3


def wythoff_pair(row: int) -> tuple[int, int]:
    """First two numbers (a, b) of a Wythoff row: a = ⌊⌊iφ⌋φ⌋, b = ⌊⌊iφ⌋φ²⌋ for i = `row`, from 1."""
    first = _floor_times_phi(_floor_times_phi(row))
    return first, first + _floor_times_phi(row)


def window_sizes(num_tokens: int, num_heads: int) -> list[int]:
    """Largest offset that each head may use under the rules `paper` and `modified`, head 1 first.

    w_i = w_min + int((w_max - w_min) / (h - 1) * (i - 1)) with w_min = 5 and w_max = num_tokens // 3. The
    float division comes first, as in the released code: 196 tokens and 12 heads give w_12 = 64, not 65. One
    head uses w_min.

    Raises:
        AttentionError: if `num_tokens` or `num_heads` is less than 1.
    """
    _check_counts(num_tokens, num_heads)
    if num_heads == 1:
        return [SMALLEST_WINDOW]
    step = (num_tokens // WINDOW_SHARE - SMALLEST_WINDOW) / (num_heads - 1)
    return [SMALLEST_WINDOW + int(step * head) for head in range(num_heads)]


def head_offsets(num_tokens: int, num_heads: int, rule: OffsetRule = "paper") -> list[list[int]]:
    """Offsets of every head, in head order (before a layer permutes them), each sorted and distinct.

    Args:
        num_tokens: patch tokens in the sequence, prefix tokens not counted.
        num_heads: heads h.
        rule: `paper`: the head's Wythoff row up to its window; its first number stays even beyond the window.
            `modified`: the same recurrence started from (i - 1, ⌊iφ⌋), so that head 1 sees itself and heads
            overlap. `robot_release`: the window is the whole sequence, and heads i > 1 also get i - 1 and
            a - (i - 1).

    Returns:
        `num_heads` lists of offsets, all below `num_tokens` (larger ones reach no token and are left out).

    Raises:
        AttentionError: if a count is less than 1 or the rule is unknown.
    """
    _check_counts(num_tokens, num_heads)
    require_choice("rule", rule, OFFSET_RULES)
    windows = [num_tokens] * num_heads if rule == "robot_release" else window_sizes(num_tokens, num_heads)
    heads = []
    for index, window in enumerate(windows, start=1):
        if rule == "modified":
            offsets = _sequence(index - 1, _floor_times_phi(index), window)
        else:
            first, second = wythoff_pair(index)
            offsets = _sequence(first, second, window)
            if rule == "robot_release" and index > 1:
                offsets += [index - 1, first - (index - 1)]
        heads.append(sorted({offset for offset in offsets if offset < num_tokens}))
    return heads


def layer_order(layer: int, num_heads: int) -> list[int]:
    """Which head's offsets each head of a layer gets: position p uses offset set `layer_order(...)[p]`.

    Indices count from 0. The order is `random.Random(layer).shuffle`, so it is the same in every run, in
    training and in evaluation, and Python's global generator is left alone.
    """
    order = list(range(num_heads))
    random.Random(layer).shuffle(order)
    return order


@lru_cache(maxsize=1024)
def layer_offsets(
    num_tokens: int, num_heads: int, layer: int, rule: OffsetRule = "paper"
) -> tuple[tuple[int, ...], ...]:
    """Offsets of every head of one layer: :func:`head_offsets` in the layer's :func:`layer_order`."""
    heads = head_offsets(num_tokens, num_heads, rule)
    return tuple(tuple(heads[head]) for head in layer_order(layer, num_heads))


def count_pairs(offsets: list[int] | tuple[int, ...], num_tokens: int) -> int:
    """Patch pairs (query, key) that one head computes: N for offset 0, 2(N - o) for each other o."""
    return sum(num_tokens if offset == 0 else 2 * max(num_tokens - offset, 0) for offset in set(offsets))


def _floor_times_phi(number: int) -> int:
    """⌊n φ⌋ without floating point: φ = (1 + √5) / 2."""
    return (number + isqrt(5 * number * number)) // 2


def _sequence(first: int, second: int, window: int) -> list[int]:
    offsets = [first]
    previous, current = first, second
    while current <= window:
        offsets.append(current)
        previous, current = current, previous + current
    return offsets


def _check_counts(num_tokens: int, num_heads: int) -> None:
    if num_tokens < 1:
        raise AttentionError(f"num_tokens must be at least 1, not {num_tokens}.")
    if num_heads < 1:
        raise AttentionError(f"num_heads must be at least 1, not {num_heads}.")
