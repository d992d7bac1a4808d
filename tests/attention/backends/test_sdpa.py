"""The dense mask's cache: one mask for all layers of a model, within bounds, and none that is not real."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fibo_robot.attention import diagonal_attention
from fibo_robot.attention.backends import sdpa
from fibo_robot.attention.sparse.reference import reference_attention
from fibo_robot.attention.wythoff import layer_offsets


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> sdpa._MaskCache:
    cache = sdpa._MaskCache()
    monkeypatch.setattr(sdpa, "_masks", cache)
    return cache


def attend(tokens: int, offsets: tuple[tuple[int, ...], ...], prefix: int = 1) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, len(offsets), tokens, 8)
    out = diagonal_attention(q, k, v, offsets, num_prefix_tokens=prefix, backend="sdpa")
    torch.testing.assert_close(out, reference_attention(q, k, v, offsets, num_prefix_tokens=prefix))


@pytest.mark.usefixtures("masks")
def test_a_call_with_fake_tensors_leaves_later_calls_alone():
    offsets = layer_offsets(36, 3, 0)
    with FakeTensorMode():
        q = torch.randn(1, 3, 37, 8)
        diagonal_attention(q, q, q, offsets, backend="sdpa")
    attend(37, offsets)
    with FakeTensorMode():  # and a mask that is kept does not reach a fake call
        q = torch.randn(1, 3, 37, 8)
        assert diagonal_attention(q, q, q, offsets, backend="sdpa").shape == q.shape


@pytest.mark.parametrize("prefix", [0, 1])
def test_layers_share_one_mask(masks, prefix):
    for layer in range(12):
        attend(36 + prefix, layer_offsets(36, 6, layer), prefix)
    assert len(masks._masks) == 1
    assert masks.nbytes(torch.device("cpu")) == 6 * (36 + prefix) ** 2


def test_masks_that_are_kept_stay_within_the_bound(masks, monkeypatch):
    monkeypatch.setattr(sdpa, "MASK_BYTES", 3 * 50**2)
    for tokens in (30, 40, 50, 60, 30):
        attend(tokens, layer_offsets(tokens - 1, 3, 0))
        assert masks.nbytes(torch.device("cpu")) <= 3 * 50**2
    kept = {key[1] for key in masks._masks}
    assert kept == {30}  # 50 and 30 do not fit together, and 60 was never kept
