"""Castling's linear-angular attention as it is trained: in few passes over memory on a CPU."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.angular import NORM_EPSILON, ConstantTerm, linear_angular
from fibo_robot.attention.operator import result_like, without_autocast


def directions(
    q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None = None, const_term: ConstantTerm = "own"
) -> Tensor:
    """y / ‖y‖ over the head dimension, with y = const/2 + q̂(k̂ᵀV)/π + extra; differentiable.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; q and k need not be normalised.
        extra: what is added before the normalisation, of the same shape; None adds nothing.
        const_term: as in :func:`fibo_robot.attention.angular.linear_angular`.

    Returns:
        `(B, heads, N, head_dim)`.
    """
    if q.device.type == "cpu":
        return torch.ops.fibo_robot.castling_directions(q, k, v, extra, const_term)[0]
    y = linear_angular(q, k, v, const_term)
    return F.normalize(y if extra is None else y + extra, dim=-1, eps=NORM_EPSILON)


@torch.library.custom_op("fibo_robot::castling_directions", mutates_args=(), device_types="cpu")
@without_autocast
def _directions(
    q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None, const_term: str
) -> tuple[Tensor, Tensor, Tensor]:
    from fibo_robot.attention.backends import numba_angular  # numba: slow to import

    # Half precision is computed in float32, and rounded once.
    dtype, kept = torch.promote_types(q.dtype, torch.float32), q.dtype
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    added = None if extra is None else extra.to(dtype)
    out, inverse, state = numba_angular.directions(q, k, v, added, cast(ConstantTerm, const_term))
    return out.to(kept), inverse, state


@_directions.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None, const_term: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, num_tokens, head_dim = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    return (
        result_like(q),
        q.new_empty((batch, heads, num_tokens), dtype=dtype),
        q.new_empty((batch, heads, head_dim, head_dim), dtype=dtype),
    )


@torch.library.custom_op("fibo_robot::castling_directions_backward", mutates_args=(), device_types="cpu")
@without_autocast
def _directions_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    inverse: Tensor,
    state: Tensor,
    const_term: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from fibo_robot.attention.backends import numba_angular

    tensors = (tensor.to(state.dtype) for tensor in (grad, q, k, v, out))
    grads = numba_angular.directions_backward(
        *tensors, inverse=inverse, state=state, const_term=cast(ConstantTerm, const_term)
    )
    grad_q, grad_k, grad_v, grad_extra = (tensor.to(q.dtype) for tensor in grads)
    return grad_q, grad_k, grad_v, grad_extra


@_directions_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    inverse: Tensor,
    state: Tensor,
    const_term: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return result_like(q), result_like(q), result_like(q), result_like(q)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, extra, ctx.const_term = inputs
    ctx.has_extra = extra is not None
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple:
    grads = torch.ops.fibo_robot.castling_directions_backward(grad, *ctx.saved_tensors, ctx.const_term)
    *of_inputs, of_extra = grads
    return (*of_inputs, of_extra if ctx.has_extra else None, None)


_directions.register_autograd(_differentiate, setup_context=_save)
