"""Pictures show the masks that the attention really has."""

import numpy as np
import pytest
import torch

from fibo_robot.attention import AttentionError
from fibo_robot.attention.pictures import mask_figure, receptive_field, receptive_field_figure
from fibo_robot.attention.sparse.reference import dense_mask
from fibo_robot.attention.wythoff import head_offsets

pytestmark = pytest.mark.matplotlib


def test_mask_figure_shows_each_heads_mask():
    figure = mask_figure(49, 4, "modified", grid=(7, 7))
    masks = dense_mask(head_offsets(49, 4, "modified"), 49, 0)
    for head in range(4):
        drawn = torch.tensor(np.asarray(figure.axes[head].images[0].get_array(), float))
        assert torch.equal(drawn.bool(), masks[head])


def test_grid_that_does_not_hold_the_patches_is_refused():
    with pytest.raises(AttentionError, match="grid"):
        mask_figure(49, 4, grid=(7, 8))


def test_receptive_field_counts_what_paths_along_the_diagonals_reach():
    # One head with offsets 1, 2, 3, 5 on 12 patches: after one layer, by counting pairs and the patch itself.
    shares = receptive_field(12, 1, 4)
    pairs = sum(2 * (12 - offset) for offset in (1, 2, 3, 5)) + 12
    assert shares[0] == pytest.approx(pairs / 144)
    assert torch.all(shares[1:] >= shares[:-1]) and shares[-1] == 1


def test_receptive_field_figure_has_a_line_per_rule():
    assert len(receptive_field_figure(49, 4, 3).axes[0].lines) == 3
