"""Controls for Fibottention: offset sets with as many pairs as the `paper` rule gives, at other distances.

Whatever the sparsity alone does to a model, these do too; what Fibottention does beyond them is due to where
its offsets lie. Pure integers, as wythoff.py. Pairs are counted as there: in a sequence of N patches offset d
joins 2(N - d) of the N² pairs of query and key, so the same number of offsets is not quite the same number of
pairs, and every rule here comes as close to the pairs of its model as whole offsets allow. None holds offset
0, for the `paper` rule does not.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, get_args

from fibo_robot.attention.checks import require_choice
from fibo_robot.attention.wythoff import (
    OFFSET_RULES,
    OffsetRule,
    count_pairs,
    head_offsets,
    layer_offsets,
    layer_order,
    window_sizes,
    wythoff_pair,
)

ControlRule = Literal["random", "random_far", "geometric", "consecutive", "same_heads", "same_layers"]
CONTROL_RULES: tuple[str, ...] = get_args(ControlRule)
RULES = (*OFFSET_RULES, *CONTROL_RULES)

DRAWS = 300  # of random sets, of which the one whose heads come closest in pairs is taken

Offsets = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=1024)
def rule_offsets(
    num_tokens: int, num_heads: int, layer: int, rule: OffsetRule | ControlRule = "paper"
) -> Offsets:
    """Offsets of every head of one layer under any rule, each sorted and distinct.

    Args:
        num_tokens: N, patch tokens in the sequence, prefix tokens not counted.
        num_heads: heads.
        layer: 0-based index of the layer.
        rule: one of `wythoff.OFFSET_RULES`, or a control, matched head by head to the `paper` rule:
            `random`: as many offsets as the head has, drawn from those up to the largest that any head has;
            heads are disjoint, and every layer draws anew (from its index: the same in every run).
            `random_far`: drawn from all distances; as these have fewer pairs, a head gets more of them.
            `geometric`: head i has (2i - 1) times 1, 2, 4, ...; heads are disjoint, as each whole number is
            an odd one times a power of two. `consecutive`: a window of the nearest tokens.
            `same_heads`: the beginning of one Wythoff row, up to the largest window, in all heads and layers.
            `same_layers`: the paper's sets, in the same order in every layer.

    Raises:
        AttentionError: if a count is less than 1 or the rule is unknown.
    """
    require_choice("rule", rule, RULES)
    if rule in OFFSET_RULES:
        return layer_offsets(num_tokens, num_heads, layer, rule)  # pyright: ignore[reportArgumentType]
    model = head_offsets(num_tokens, num_heads, "paper")
    heads = _CONTROLS[rule](model, num_tokens, layer)
    if rule != "same_layers":
        heads = [heads[head] for head in layer_order(layer, num_heads)]
    return tuple(tuple(sorted(head)) for head in heads)


def density(offsets: Sequence[Sequence[int]], num_tokens: int) -> float:
    """Share of all N² patch pairs that heads with these offsets compute, mean over the heads."""
    return sum(count_pairs(tuple(head), num_tokens) for head in offsets) / (len(offsets) * num_tokens**2)


def closest_count(pairs: Iterable[int], target: int) -> int:
    """How many of these pairs, from the first on, add up closest to `target`; the fewer on a tie."""
    sums = [0, *accumulate(pairs)]
    return min(range(len(sums)), key=lambda count: abs(sums[count] - target))


def _matched(candidates: Sequence[int], head: Sequence[int], num_tokens: int) -> list[int]:
    """The candidates, from the first on, that have as many pairs as `head`."""
    pairs = [count_pairs([offset], num_tokens) for offset in candidates]
    return list(candidates[: closest_count(pairs, count_pairs(tuple(head), num_tokens))])


def _random(model: list[list[int]], num_tokens: int, layer: int) -> list[list[int]]:
    reach = max((offset for head in model for offset in head), default=0)
    sizes = [len(head) for head in model]
    ends = list(accumulate(sizes))

    def draw(generator: random.Random) -> list[list[int]]:
        drawn = generator.sample(range(1, reach + 1), sum(sizes))
        return [drawn[end - size : end] for size, end in zip(sizes, ends)]

    return _closest(draw, model, num_tokens, layer)


def _random_far(model: list[list[int]], num_tokens: int, layer: int) -> list[list[int]]:
    def draw(generator: random.Random) -> list[list[int]]:
        left = generator.sample(range(1, num_tokens), num_tokens - 1)
        heads = []
        for head in model:
            heads.append(_matched(left, head, num_tokens))
            left = left[len(heads[-1]) :]
        return heads

    return _closest(draw, model, num_tokens, layer)


def _closest(
    draw: Callable[[random.Random], list[list[int]]], model: list[list[int]], num_tokens: int, layer: int
) -> list[list[int]]:
    generator = random.Random(layer)  # Python's global generator is left alone
    wanted = [count_pairs(tuple(head), num_tokens) for head in model]

    def distance(heads: list[list[int]]) -> int:
        return sum(abs(count_pairs(tuple(head), num_tokens) - pairs) for head, pairs in zip(heads, wanted))

    return min((draw(generator) for _ in range(DRAWS)), key=distance)


def _geometric(model: list[list[int]], num_tokens: int, layer: int) -> list[list[int]]:
    heads = []
    for index, head in enumerate(model):
        start = 2 * index + 1
        powers = [start << power for power in range(num_tokens.bit_length()) if start << power < num_tokens]
        heads.append(_matched(powers, head, num_tokens))
    return heads


def _consecutive(model: list[list[int]], num_tokens: int, layer: int) -> list[list[int]]:
    return [_matched(range(1, num_tokens), head, num_tokens) for head in model]


def _same_heads(model: list[list[int]], num_tokens: int, layer: int) -> list[list[int]]:
    wanted = sum(count_pairs(tuple(head), num_tokens) for head in model) / len(model)
    window = window_sizes(num_tokens, len(model))[-1]
    beginnings: list[list[int]] = [[]]
    for index in range(1, len(model) + 1):
        offset, following = wythoff_pair(index)
        row: list[int] = []
        while offset <= min(window, num_tokens - 1):
            row = [*row, offset]
            beginnings.append(row)
            offset, following = following, offset + following
    chosen = min(beginnings, key=lambda row: abs(count_pairs(row, num_tokens) - wanted))
    return [chosen for _ in model]


def _same_layers(model: list[list[int]], num_tokens: int, layer: int) -> list[list[int]]:
    return model


_CONTROLS: dict[str, Callable[[list[list[int]], int, int], list[list[int]]]] = {
    "random": _random,
    "random_far": _random_far,
    "geometric": _geometric,
    "consecutive": _consecutive,
    "same_heads": _same_heads,
    "same_layers": _same_layers,
}
