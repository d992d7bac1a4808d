"""Controls for Fibottention: as many pairs, at other distances, the same in every run."""

import random

import pytest
import torch
import torch.nn.functional as F

from fibo_robot.attention import AttentionError, create_attention
from fibo_robot.attention.comparators.neighbourhood import NeighbourhoodCore, head_displacements
from fibo_robot.attention.sparse.controls import CONTROL_RULES, closest_count, density, rule_offsets
from fibo_robot.attention.sparse.reference import dense_mask, reference_attention
from fibo_robot.attention.wythoff import head_offsets, layer_offsets

SIZES = [(64, 4), (64, 6), (196, 12), (256, 6), (784, 12)]
DISJOINT = ("random", "random_far", "geometric", "same_layers")


@pytest.mark.parametrize(("tokens", "heads"), SIZES)
@pytest.mark.parametrize("rule", CONTROL_RULES)
def test_density_is_that_of_the_paper_rule(rule: str, tokens: int, heads: int) -> None:
    paper = density(rule_offsets(tokens, heads, 0), tokens)
    offsets = rule_offsets(tokens, heads, 3, rule)
    # Counted once more, from the mask itself.
    mask = dense_mask(offsets, tokens, 0)
    assert density(offsets, tokens) == pytest.approx(mask.double().mean().item())
    assert density(offsets, tokens) == pytest.approx(paper, rel=0.12)
    assert all(0 < offset < tokens for head in offsets for offset in head)


@pytest.mark.parametrize("rule", [rule for rule in CONTROL_RULES if rule not in ("same_heads", "random_far")])
def test_each_head_has_about_the_keys_of_the_papers_head(rule: str) -> None:
    for tokens, heads in SIZES:
        # The order of heads differs between layers alone, and by the same permutation; same_layers has none.
        paper = head_offsets(tokens, heads) if rule == "same_layers" else layer_offsets(tokens, heads, 2)
        for head, model in zip(rule_offsets(tokens, heads, 2, rule), paper):
            assert abs(len(head) - len(model)) <= 1


@pytest.mark.parametrize("rule", DISJOINT)
def test_heads_are_disjoint_as_the_papers_are(rule: str) -> None:
    for tokens, heads in SIZES:
        offsets = [offset for head in rule_offsets(tokens, heads, 1, rule) for offset in head]
        assert len(offsets) == len(set(offsets))


def test_what_is_alike_is_alike_and_what_differs_differs() -> None:
    def layers(rule: str) -> list:
        return [rule_offsets(196, 12, layer, rule) for layer in range(4)]

    assert len({head for layer in layers("same_heads") for head in layer}) == 1
    assert layers("same_layers") == [tuple(map(tuple, head_offsets(196, 12)))] * 4
    assert all(sorted(layer) == sorted(layers("geometric")[0]) for layer in layers("geometric"))
    for rule in ("random", "random_far"):
        assert len({tuple(sorted(layer)) for layer in layers(rule)}) == 4
    for head in layers("consecutive")[0]:
        assert head == tuple(range(1, len(head) + 1))
    reach = max(max(head) for head in head_offsets(196, 12))
    assert max(max(head) for head in layers("random")[0]) <= reach
    assert max(max(head) for head in layers("random_far")[0]) > reach


def test_offsets_are_the_same_in_every_run_and_leave_pythons_generator_alone() -> None:
    random.seed(5)
    before = random.getstate()
    first = rule_offsets(64, 4, 0, "random")
    rule_offsets.cache_clear()
    assert rule_offsets(64, 4, 0, "random") == first
    assert random.getstate() == before


@pytest.mark.parametrize("rule", CONTROL_RULES)
@pytest.mark.parametrize(("tokens", "heads"), [(1, 1), (2, 3), (9, 12), (5, 1)])
def test_short_sequences_have_offsets_that_fit(rule: str, tokens: int, heads: int) -> None:
    offsets = rule_offsets(tokens, heads, 0, rule)
    assert len(offsets) == heads and all(0 < offset < tokens for head in offsets for offset in head)


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(AttentionError, match="rule must be one of"):
        rule_offsets(64, 4, 0, "fractal")  # pyright: ignore[reportArgumentType]


def test_closest_count_takes_what_adds_up_closest() -> None:
    assert [closest_count([4, 3, 2], target) for target in (0, 2, 3, 6, 9, 100)] == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("rule", CONTROL_RULES)
def test_gradients_equal_the_reference(rule: str) -> None:
    core = create_attention(
        {"name": "fibottention", "rule": rule}, 24, 3, layer_index=1, num_prefix_tokens=1
    ).core
    q, k, v = (torch.randn(2, 3, 200, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = reference_attention(q, k, v, rule_offsets(199, 3, 1, rule))
    grad = torch.randn_like(q)
    torch.testing.assert_close(core(q, k, v), expected)
    torch.testing.assert_close(
        torch.autograd.grad(core(q, k, v), (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad)
    )


def test_neighbourhood_sees_its_nearest_patches_and_no_row_end() -> None:
    grid, heads = (1, 14, 14), 12
    module = create_attention("neighbourhood", 48, heads, layer_index=2, num_prefix_tokens=1, grid=grid)
    assert isinstance(module.core, NeighbourhoodCore)
    mask = module.core.mask(197)
    assert mask[:, 0].all() and mask[:, :, 0].all()
    patches = mask[:, 1:, 1:]
    assert patches.double().mean().item() == pytest.approx(
        density(layer_offsets(196, heads, 2), 196), rel=0.12
    )
    assert torch.equal(patches, patches.transpose(1, 2)) and not patches.diagonal(dim1=1, dim2=2).any()
    y, x = torch.arange(196) // 14, torch.arange(196) % 14
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    for head, displacements in zip(patches, head_displacements(grid, heads, 2)):
        farthest = max(dy * dy + dx * dx for _, dy, dx in displacements)
        assert squared[head].max() == farthest and head[squared < farthest][1:].any() == (farthest > 1)
        assert (head.sum(1) <= 2 * len(displacements)).all()


def test_neighbourhood_equals_masked_softmax_also_where_a_patch_has_no_neighbour() -> None:
    for grid, prefix in (((1, 6, 6), 1), ((1, 6, 6), 0), ((2, 3, 4), 0), ((1, 1, 1), 0)):
        tokens = grid[0] * grid[1] * grid[2] + prefix
        module = create_attention("neighbourhood", 12, 3, layer_index=0, num_prefix_tokens=prefix, grid=grid)
        core = module.core
        assert isinstance(core, NeighbourhoodCore)
        q, k, v = (torch.randn(2, 3, tokens, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
        mask = core.mask(tokens)
        logits = (q @ k.transpose(-2, -1) / 2).masked_fill(~mask, -1e9)
        expected = (F.softmax(logits, dim=-1) * mask) @ v
        torch.testing.assert_close(core(q, k, v), expected)
        grads = torch.autograd.grad(core(q, k, v).square().sum(), (q, k, v))
        assert all(grad.isfinite().all() for grad in grads)


def test_neighbourhood_without_a_grid_says_what_it_needs() -> None:
    module = create_attention("neighbourhood", 12, 3, layer_index=0, num_prefix_tokens=1)
    with pytest.raises(AttentionError, match="needs the token grid"):
        module(torch.randn(1, 17, 12))
