"""Castling's linear-angular attention as it is trained: in few passes over memory, on a CPU and on CUDA."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.castling.angular import (
    NORM_EPSILON,
    ConstantTerm,
    convolve,
    kernels_on_cuda,
    linear_angular,
)
from fibo_robot.attention.compiling import constant_result
from fibo_robot.attention.operator import empty_packed, empty_tokens_first, unpacked
from fibo_robot.attention.registration import below_autograd, define_operator, without_autocast


def castling_training(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    const_term: ConstantTerm,
    taps: Tensor | None = None,
    branch: Tensor | None = None,
    branch_scale: Tensor | None = None,
) -> Tensor:
    """Normalised linear-angular attention plus a convolution of v along the tokens; differentiable.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; q and k need not be normalised.
        const_term: as in :func:`fibo_robot.attention.castling.angular.linear_angular`.
        taps: `(heads, taps)`, an odd number of filter weights per head; None: no convolution.
        branch: what is added before the normalisation, of q's shape; None adds nothing.
        branch_scale: its factor, a scalar that gets no gradient; None stands for 1.

    Returns:
        `(B, heads, N, head_dim)`: y / ‖y‖ + taps * v with y = const/2 + q̂(k̂ᵀV)/π + branch_scale · branch.
    """
    taps = v.new_zeros(q.shape[1], 0) if taps is None else taps
    scale = q.new_ones((), dtype=torch.float32) if branch_scale is None else branch_scale
    on_cuda = q.device.type == "cuda" and kernels_on_cuda(q)
    if on_cuda or (q.device.type == "cpu" and _has_kernel(q.dtype)):
        return torch.ops.fibo_robot.castling_training(q, k, v, branch, scale, taps, const_term)[0]
    y = linear_angular(q, k, v, const_term)
    y = y if branch is None else y + scale.to(branch.dtype) * branch
    return convolve(v, taps, F.normalize(y, dim=-1, eps=NORM_EPSILON))


@constant_result
def _has_kernel(dtype: torch.dtype) -> bool:
    from fibo_robot.attention.backends.numba.blas import is_available  # numba: slow to import

    return is_available(dtype)


@without_autocast
def training_on_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch: Tensor | None,
    branch_scale: Tensor,
    taps: Tensor,
    const_term: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, direction, inverse and state; see :mod:`fibo_robot.attention.backends.numba.angular`."""
    from fibo_robot.attention.backends.numba import angular as numba_angular

    # Half precision is computed in float32, and rounded once.
    dtype, given = torch.promote_types(q.dtype, torch.float32), q.dtype
    q, k, v, taps = (tensor.to(dtype) for tensor in (q, k, v, taps))
    branch = None if branch is None else branch.to(dtype)
    term = cast(ConstantTerm, const_term)
    found = numba_angular.forward(q, k, v, branch, float(branch_scale), taps, term, training=True)
    # Without a convolution the output is what the backward pass needs, and operators return nothing twice.
    direction = found.direction if taps.shape[1] else q.new_empty(0)
    return found.out.to(given), direction, found.inverse, found.state


@without_autocast
def training_on_cuda(q: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, direction, inverse and state; see :mod:`fibo_robot.attention.backends.triton.angular`."""
    from fibo_robot.attention.backends.triton import angular as triton_angular

    found = triton_angular.forward(q, *given, training=True)
    return found.out, found.direction, found.inverse, found.state


@without_autocast
def backward_on_cpu(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    direction: Tensor,
    inverse: Tensor,
    state: Tensor,
    taps: Tensor,
    const_term: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v in one tensor, of y, and of the taps."""
    from fibo_robot.attention.backends.numba import angular as numba_angular

    grad, q_wide, k, v, direction, wide_taps = (
        tensor.to(state.dtype) for tensor in (grad, q, k, v, direction, taps)
    )
    term = cast(ConstantTerm, const_term)
    grads = numba_angular.backward(grad, q_wide, k, v, direction, inverse, state, wide_taps, term)
    packed, grad_y, grad_taps = grads
    return packed.to(q.dtype), grad_y.to(q.dtype), grad_taps.to(taps.dtype)


@without_autocast
def backward_on_cuda(grad: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v in one tensor, of y, and of the taps."""
    from fibo_robot.attention.backends.triton import angular as triton_angular

    return triton_angular.backward(grad, *given)


class _Training(torch.autograd.Function):
    """The operator, whose derivative is the backward operator."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        branch: Tensor | None,
        branch_scale: Tensor,
        taps: Tensor,
        const_term: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        operator = torch.ops.fibo_robot.castling_training.default
        found = below_autograd(operator, q, k, v, branch, branch_scale, taps, const_term)
        out, direction, inverse, state = found
        ctx.const_term, ctx.has_branch = const_term, branch is not None
        kept = direction if taps.shape[1] else out
        ctx.save_for_backward(q, k, v, kept, inverse, state, taps, branch_scale)
        ctx.mark_non_differentiable(direction, inverse, state)
        return found

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple:
        *saved, branch_scale = ctx.saved_tensors
        backward = torch.ops.fibo_robot.castling_training_backward.default
        packed, grad_y, grad_taps = backward(upstream[0], *saved, ctx.const_term)
        grad_branch = branch_scale.to(grad_y.dtype) * grad_y if ctx.has_branch else None
        return *unpacked(packed), grad_branch, None, grad_taps, None


def _fake_training(
    q: Tensor, k: Tensor, v: Tensor, branch: Tensor | None, branch_scale: Tensor, taps: Tensor, term: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, heads, num_tokens, head_dim = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    return (
        empty_tokens_first(q),
        empty_tokens_first(q, dtype) if taps.shape[1] else q.new_empty(0, dtype=dtype),
        q.new_empty((batch, heads, num_tokens), dtype=dtype),
        q.new_empty((batch, heads, head_dim, head_dim), dtype=dtype),
    )


def _fake_backward(grad: Tensor, q: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_packed(q), empty_tokens_first(q), torch.empty_like(given[-2])


define_operator(
    "castling_training(Tensor q, Tensor k, Tensor v, Tensor? branch, Tensor branch_scale, Tensor taps, "
    "str const_term) -> (Tensor, Tensor, Tensor, Tensor)",
    on_cpu=training_on_cpu,
    on_cuda=training_on_cuda,
    fake=_fake_training,
    derivative=_Training,
)
define_operator(
    "castling_training_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor direction, Tensor inverse, "
    "Tensor state, Tensor taps, str const_term) -> (Tensor, Tensor, Tensor)",
    on_cpu=backward_on_cpu,
    on_cuda=backward_on_cuda,
    fake=_fake_backward,
    refusal="Castling's attention has no second derivative by its kernels.",
)
