"""Splitting a projection into q, k and v, and what comes back as its gradient."""

import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fibo_robot.attention import create_attention, diagonal_attention
from fibo_robot.attention.castling.training import castling_training
from fibo_robot.attention.operator import unpacked
from fibo_robot.attention.projection import split_projection


class NegatedKeys(torch.autograd.Function):
    """q - k + v, whose gradients lie as the parts of one tensor, that of k with a sign yet to be turned."""

    @staticmethod
    def forward(ctx, q, k, v):
        return q - k + v

    @staticmethod
    def backward(ctx, *grads):
        q, k, v = unpacked(torch.stack([grads[0].transpose(1, 2)] * 3, dim=2))
        return q, torch.ops.aten._neg_view(k), v


def projection(batch=2, tokens=60, heads=3, head_dim=16):
    return torch.randn(batch, tokens, 3, heads, head_dim, requires_grad=True)


def attend(q, k, v):
    return diagonal_attention(q, k, v, [[1], [2, 5], []], backend="numba")


def test_parts_are_views_of_q_k_and_v():
    qkv = projection()
    for place, part in enumerate(split_projection(qkv)):
        assert torch.equal(part, qkv[:, :, place].transpose(1, 2))
        assert part.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel", [attend, lambda q, k, v: castling_training(q, k, v, "own")])
def test_gradients_of_the_kernels_are_not_copied(batch, kernel):
    qkv = projection(batch)
    parts = split_projection(qkv)
    addresses = []
    parts[0].register_hook(lambda grad: addresses.append(grad.data_ptr()))
    (grad,) = torch.autograd.grad(kernel(*parts).square().sum(), qkv)
    assert addresses == [grad.data_ptr()]
    plain = kernel(*(part.transpose(1, 2) for part in qkv.unbind(2)))
    (expected,) = torch.autograd.grad(plain.square().sum(), qkv)
    assert grad.is_contiguous() and torch.equal(grad, expected)


@pytest.mark.parametrize(
    "attention",
    [
        torch.nn.functional.scaled_dot_product_attention,
        lambda q, k, v: attend(2 * q, k, v),  # the first gradient lies apart
        lambda q, k, v: attend(q, k, v) + attend(q, k, v),  # two of each are added
        lambda q, k, v: attend(v, q, k),  # all in one tensor, in another order
        lambda q, k, v: q * v,  # one gets none
        lambda q, k, v: q.sum() * torch.ones_like(v) + v,  # strides of nothing
        lambda q, k, v: NegatedKeys.apply(q, k, v),  # one is the negative of what lies in memory
    ],
)
def test_other_gradients_are_joined(attention):
    qkv = projection()
    found = torch.autograd.grad(attention(*split_projection(qkv)).square().sum(), qkv)[0]
    plain = attention(*(part.transpose(1, 2) for part in qkv.unbind(2)))
    expected = torch.autograd.grad(plain.square().sum(), qkv)[0]
    torch.testing.assert_close(found, expected)


def test_second_derivatives_know_of_all_three():
    qkv = torch.randn(1, 3, 3, 1, 2, dtype=torch.float64, requires_grad=True)

    def product(qkv):
        q, k, v = split_projection(qkv)
        return q * k * v

    assert torch.autograd.gradgradcheck(product, (qkv,))


def test_transforms_of_torch_func_see_plain_views():
    qkv = torch.randn(2, 5, 3, 2, 4)
    upstream = torch.randn(3, 2, 2, 5, 4)

    def loss(qkv, split):
        return sum((part * weight).square().sum() for part, weight in zip(split(qkv), upstream, strict=True))

    def plainly(qkv):
        return [part.transpose(1, 2) for part in qkv.unbind(2)]

    gradient = torch.func.grad(loss)
    torch.testing.assert_close(gradient(qkv, split_projection), gradient(qkv, plainly))
    both = torch.stack([qkv, 2 * qkv])
    over_both = torch.func.vmap(gradient, in_dims=(0, None))
    torch.testing.assert_close(over_both(both, split_projection), over_both(both, plainly))
    for split in (split_projection, plainly):
        slope = torch.func.jvp(lambda qkv, split=split: loss(qkv, split), (qkv,), (torch.ones_like(qkv),))[1]
        torch.testing.assert_close(slope, gradient(qkv, plainly).sum())


@pytest.mark.parametrize("attention", ["softmax", "fibottention"])
def test_many_gradients_may_be_asked_for_at_once(attention):
    module = create_attention(attention, 12, 3, layer_index=0, num_prefix_tokens=1)
    x = torch.randn(2, 9, 12, requires_grad=True)
    sums = module(x).sum((1, 2))
    at_once = torch.autograd.grad(sums, x, torch.eye(2), is_grads_batched=True, retain_graph=True)[0]
    for one, found in zip(torch.eye(2), at_once, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(sums, x, one, retain_graph=True)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_module_can_be_traced_and_saved():
    module = create_attention("softmax", 12, 3, layer_index=0, num_prefix_tokens=1).eval()
    x = torch.randn(2, 9, 12)
    saved = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, x), saved)
    saved.seek(0)
    torch.testing.assert_close(torch.jit.load(saved)(x), module(x))


@pytest.mark.filterwarnings("error")
def test_fake_gradients_are_not_looked_into():
    with FakeTensorMode():
        module = create_attention("softmax", 12, 3, layer_index=0, num_prefix_tokens=1)
        x = torch.randn(2, 9, 12, requires_grad=True)
        assert torch.autograd.grad(module(x).sum(), x)[0].shape == x.shape


def test_dense_module_has_derivatives_by_torch_func():
    module = create_attention("softmax", 12, 3, layer_index=0, num_prefix_tokens=1)
    weights = dict(module.named_parameters())
    x = torch.randn(2, 7, 12)

    def loss(weights):
        return torch.func.functional_call(module, weights, x).square().sum()

    found = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    for name, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(found[name], gradient)
