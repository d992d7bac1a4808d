"""Offsets against the reference tables of the Fibottention release, and the paper's own counts."""

import json
import random
from pathlib import Path

import pytest

from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.wythoff import (
    OFFSET_RULES,
    count_pairs,
    head_offsets,
    layer_order,
    window_sizes,
    wythoff_pair,
)
from tests.properties import given, st

GOLDEN = json.loads((Path(__file__).parent / "golden_offsets.json").read_text())
TABLES = {"paper": "top_standard", "modified": "top_modified", "robot_release": "robot_modified"}
CASES = [(case, rule) for case in GOLDEN["cases"] for rule in OFFSET_RULES]


def tokens_and_heads(case: str) -> tuple[int, int]:
    tokens, heads = case.split("_")
    return int(tokens[1:]), int(heads[1:])


@pytest.mark.parametrize(("case", "rule"), CASES)
def test_offsets_windows_and_counts_equal_the_golden_table(case, rule):
    tokens, heads = tokens_and_heads(case)
    golden = GOLDEN["cases"][case][TABLES[rule]]
    expected = [sorted({o for o in row if o < tokens}) for row in golden["offsets"]]
    offsets = head_offsets(tokens, heads, rule)
    assert offsets == expected
    assert [count_pairs(row, tokens) for row in offsets] == golden["nnz"]
    assert sum(count_pairs(row, tokens) for row in offsets) == golden["total"]
    assert golden["total"] / (heads * tokens**2) == pytest.approx(golden["density"], abs=1e-12)
    if rule != "robot_release":
        assert window_sizes(tokens, heads) == golden["w"]


@pytest.mark.parametrize("heads", [3, 6, 12])
def test_layer_order_equals_the_golden_permutations(heads):
    golden = GOLDEN["depth_permutations"][str(heads)]
    assert [[head + 1 for head in layer_order(layer, heads)] for layer in range(len(golden))] == golden


def test_layer_order_leaves_the_global_generator_alone():
    random.seed(7)
    expected = random.random()
    random.seed(7)
    layer_order(3, 12)
    assert random.random() == expected


def test_first_wythoff_rows():
    rows = [(1, 2), (4, 7), (6, 10), (9, 15), (12, 20), (14, 23), (17, 28), (19, 31), (22, 36), (25, 41)]
    assert [wythoff_pair(row) for row in range(1, 11)] == rows


@pytest.mark.parametrize(
    ("heads", "rule", "percent", "with_class_token"),
    [
        (12, "paper", 1.994, 2.986),
        (12, "modified", 3.827, 4.801),
        (3, "paper", 4.450, None),
        (3, "modified", 5.963, None),
    ],
)
def test_published_densities(heads, rule, percent, with_class_token):
    pairs = sum(count_pairs(row, 196) for row in head_offsets(196, heads, rule))
    assert 100 * pairs / (heads * 196**2) == pytest.approx(percent, abs=5e-4)
    if with_class_token is not None:
        dense_row_and_column = heads * (2 * 197 - 1)
        density = 100 * (pairs + dense_row_and_column) / (heads * 197**2)
        assert density == pytest.approx(with_class_token, abs=5e-4)


@given(tokens=st.integers(1, 4000), heads=st.integers(1, 32))
def test_paper_heads_are_disjoint_and_reach_only_real_tokens(tokens, heads):
    offsets = head_offsets(tokens, heads, "paper")
    flat = [offset for row in offsets for offset in row]
    assert len(flat) == len(set(flat))
    assert all(0 < offset < tokens for offset in flat)


@given(tokens=st.integers(1, 500), heads=st.integers(1, 16), rule=st.sampled_from(OFFSET_RULES))
def test_offsets_are_sorted_distinct_and_below_the_number_of_tokens(tokens, heads, rule):
    offsets = head_offsets(tokens, heads, rule)
    assert len(offsets) == heads
    for row in offsets:
        assert row == sorted(set(row))
        assert all(0 <= offset < tokens for offset in row)


def test_one_head_uses_the_smallest_window():
    assert window_sizes(196, 1) == [5]
    assert head_offsets(196, 1) == [[1, 2, 3, 5]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 12), "num_tokens"), ((196, 0), "num_heads"), ((196, 12, "golden"), "rule")],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(AttentionError, match=named):
        head_offsets(*arguments)
