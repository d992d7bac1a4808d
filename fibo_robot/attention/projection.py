"""From a projection to q, k and v, and back: without copying where the gradients allow it."""

from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.operator import unpacked


def split_projection(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of a projection `(B, N, 3, heads, head_dim)` as q, k and v, `(B, heads, N, head_dim)` each.

    The sparse kernels write the three gradients into one tensor, in the projection's order: then it is the
    projection's gradient as it is. Other gradients are joined in one copy.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or not (torch.is_grad_enabled() and qkv.requires_grad):
        return unpacked(qkv)
    return _Split.apply(qkv)


class _Split(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return unpacked(qkv)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return unpacked(*tangents)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # While a second derivative is recorded they are joined in any case: a view of one is not made of all.
        whole = None if torch.is_grad_enabled() else _whole(grads)
        return torch.stack([grad.transpose(1, 2) for grad in grads], dim=2) if whole is None else whole


def _whole(grads: tuple[Tensor, ...]) -> Tensor | None:
    """The tensor that three gradients are the parts of; None if they are not."""
    first = grads[0]
    batch, heads, tokens, head_dim = first.shape
    step = heads * head_dim
    strides = 3 * tokens * step, head_dim, 3 * step, 1
    for place, grad in enumerate(grads):
        if type(grad) is not Tensor or grad.is_neg():  # fake tensors; signs that are yet to be turned
            return None
        if (grad.stride(), grad.dtype) != (strides, first.dtype):
            return None
        try:
            same = grad.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        except NotImplementedError:  # of `is_grads_batched`
            return None
        if not same or grad.storage_offset() != first.storage_offset() + place * step:
            return None
    return first.as_strided((batch, tokens, 3, heads, head_dim), (strides[0], 3 * step, step, head_dim, 1))
