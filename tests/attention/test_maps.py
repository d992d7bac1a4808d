"""The attention shown is the attention used, and a map over a picture is as strong as it says."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fibo_robot.attention import maps
from fibo_robot.attention.cores import DiagonalCore, SoftmaxCore
from fibo_robot.attention.maps import attention_weights, blend, heat_map, received_attention
from fibo_robot.attention.sparse.reference import dense_mask


def test_softmax_weights_are_the_softmax():
    core = SoftmaxCore(2, 8, SoftmaxCore.options_type())
    q, k = torch.randn(2, 1, 2, 21, 8)
    expected = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    assert_close(attention_weights(core, q, k), expected)


def test_fibottention_weights_are_zero_off_its_diagonals_and_sum_to_one():
    core = DiagonalCore(2, 8, DiagonalCore.options_type())
    core.place(0, 1)
    q, k = torch.randn(2, 1, 2, 50, 8)
    weights = attention_weights(core, q, k)[0]
    mask = dense_mask(core.offsets(50), 50, 1)
    assert (weights[~mask] == 0).all()
    assert not mask.all()
    assert_close(weights.sum(-1), torch.ones(2, 50))


@pytest.mark.parametrize("kind", [SoftmaxCore, DiagonalCore])
def test_received_attention_is_the_column_sums_of_the_weights(kind):
    core = kind(2, 8, kind.options_type())
    core.place(0, 1)
    q, k, v = torch.randn(3, 1, 2, 50, 8)
    weights = attention_weights(core, q, k)
    assert_close(received_attention(core, q, k, v), weights.sum(-2))
    assert_close(received_attention(core, q, k, v, num_prefix_tokens=1), weights[:, :, 1:].sum(-2))


def test_a_heat_map_runs_from_0_to_1_and_one_loud_patch_does_not_hide_the_rest():
    received = torch.arange(100.0).reshape(10, 10)
    received[9, 9] = 1e6
    heat = heat_map(received)
    assert (heat.min(), heat.max()) == (0.0, 1.0)
    assert heat[5, 0] == pytest.approx(50 / np.quantile(received.numpy(), 1 - maps.STRONGEST))
    assert (heat_map(torch.ones(3, 3)) == 0).all()


def test_a_map_covers_a_picture_as_far_as_it_is_hot():
    picture = np.full((8, 8, 3), 200, np.uint8)
    assert (blend(picture, np.zeros((2, 2))) == picture).all()
    hottest = np.array([0.988362, 0.998364, 0.644924]) * 255  # the colour map's last entry
    expected = (1 - maps.STRENGTH) * 200 + maps.STRENGTH * hottest
    np.testing.assert_allclose(blend(picture, np.ones((2, 2)))[3, 3], expected, atol=0.51)
    half = blend(picture, np.array([[0.0, 1.0]]))
    assert (half[:, 0] == 200).all() and (half[:, -1] == blend(picture, np.ones((1, 1)))[0, 0]).all()
