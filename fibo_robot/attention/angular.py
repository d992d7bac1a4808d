"""Castling's linear-angular attention, and the masked softmax branch that accompanies it in training.

The angle between q and k gives the similarity 1 - θ/π = 1/2 + cos(θ)/π + higher odd powers of cos(θ)
(Castling-ViT, arXiv 2211.10526, section 3). Keeping the linear part, q̂(k̂ᵀV) costs O(N·d²); the largest error
of the similarity is 0.182, at |cos θ| = 1. The branch adds the strongest softmax weights back while training.
"""

from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.operator import without_autocast

ConstantTerm = Literal["own", "sum", "mean"]
CONSTANT_TERMS: tuple[str, ...] = get_args(ConstantTerm)

NORM_EPSILON = 1e-6  # a zero token stays zero; the released code divides 0 by 0
QUERY_ROWS = 128  # queries of the branch whose weights are alive at once


def linear_angular(q: Tensor, k: Tensor, v: Tensor, const_term: ConstantTerm = "own") -> Tensor:
    """The linear part of angular attention, before its normalisation.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; q and k need not be normalised.
        const_term: what the constant 1/2 of the similarity multiplies. `own`: the token's own v, as in the
            released code. `sum`: the sum of all v, what expanding the kernel gives. `mean`: that over N.

    Returns:
        `(B, heads, N, head_dim)`: const/2 + q̂(k̂ᵀV)/π.
    """
    q = F.normalize(q, dim=-1, eps=NORM_EPSILON)
    k = F.normalize(k, dim=-1, eps=NORM_EPSILON)
    constant = constant_value(v, const_term)
    return 0.5 * constant + q @ ((k.transpose(-2, -1) @ v) / torch.pi)


def constant_value(v: Tensor, const_term: ConstantTerm) -> Tensor:
    """What the similarity's constant multiplies: `(B, heads, N, head_dim)` for `own`, else one row."""
    if const_term == "own":
        return v
    return v.sum(dim=-2, keepdim=True) if const_term == "sum" else v.mean(dim=-2, keepdim=True)


def castling_inference(
    q: Tensor, k: Tensor, v: Tensor, const_term: ConstantTerm, taps: Tensor | None = None
) -> Tensor:
    """Normalised linear-angular attention plus a convolution of v along the tokens; without gradients.

    One operator, so that the CPU can do it in two passes over memory (backends/numba_angular.py).

    Args:
        q, k, v: `(B, heads, N, head_dim)`.
        const_term: as in :func:`linear_angular`.
        taps: `(heads, taps)`, an odd number of filter weights per head; None: no convolution.

    Returns:
        `(B, heads, N, head_dim)`: y / ‖y‖ + taps * v with y = const/2 + q̂(k̂ᵀV)/π.
    """
    taps = v.new_zeros(q.shape[1], 0) if taps is None else taps
    return torch.ops.fibo_robot.castling_inference(q, k, v, const_term, taps)


@torch.library.custom_op("fibo_robot::castling_inference", mutates_args=())
@without_autocast
def _castling_inference(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    out = F.normalize(linear_angular(q, k, v, cast(ConstantTerm, const_term)), dim=-1, eps=NORM_EPSILON)
    if taps.shape[1] == 0:
        return out
    return out + F.conv2d(v, taps[:, None, :, None], padding=(taps.shape[1] // 2, 0), groups=len(taps))


@_castling_inference.register_kernel("cpu")
@without_autocast
def _(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    from fibo_robot.attention.backends.numba_angular import castling_inference  # numba: slow to import

    # Half precision is computed in float32, and rounded once.
    dtype = torch.promote_types(q.dtype, torch.float32)
    term = cast(ConstantTerm, const_term)
    return castling_inference(q.to(dtype), k.to(dtype), v.to(dtype), term, taps.to(dtype)).to(q.dtype)


@_castling_inference.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def strongest_softmax(
    q: Tensor, k: Tensor, v: Tensor, *, threshold: float, scale: float
) -> tuple[Tensor, Tensor]:
    """The training branch: (M ⊙ S)·V with S = softmax(q·kᵀ·scale) and M = S > threshold / N.

    M is a constant for the gradient, and the kept weights are not renormalised. The threshold is relative to
    uniform attention, because the released 0.02 is 4 times uniform at 196 tokens but below uniform at 49.
    Weights are computed for a block of query rows at a time, in the backward pass too, so no more than
    `(B, heads, QUERY_ROWS, N)` of them are alive at once.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; q and k as projected, not normalised.
        threshold: c, in multiples of the uniform weight 1/N.
        scale: factor on q·k.

    Returns:
        The branch `(B, heads, N, head_dim)`, and the share of softmax mass that the mask passed, a scalar.
    """
    branch, passed = torch.ops.fibo_robot.strongest_softmax(q, k, v, threshold / k.shape[-2], scale)
    return branch, passed.detach()


@torch.library.custom_op("fibo_robot::strongest_softmax", mutates_args=())
@without_autocast
def _strongest_softmax(q: Tensor, k: Tensor, v: Tensor, cutoff: float, scale: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    passed = torch.zeros((), dtype=torch.float32, device=q.device)
    keys = k.transpose(-2, -1)
    for start in range(0, q.shape[-2], QUERY_ROWS):
        rows = slice(start, start + QUERY_ROWS)
        weights = ((q[..., rows, :] @ keys) * scale).softmax(dim=-1)
        kept = weights * (weights > cutoff)
        passed += kept.sum(dtype=torch.float32)
        out[..., rows, :] = kept @ v
    return out, passed / q.shape[:-1].numel()


@_strongest_softmax.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cutoff: float, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), q.new_empty((), dtype=torch.float32)


@torch.library.custom_op("fibo_robot::strongest_softmax_backward", mutates_args=())
@without_autocast
def _strongest_softmax_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cutoff: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    # Sums over the blocks are kept in float32 at least.
    sums = torch.promote_types(q.dtype, torch.float32)
    grad_q, grad_k, grad_v = (torch.zeros(t.shape, dtype=sums, device=t.device) for t in (q, k, v))
    keys, values = k.transpose(-2, -1), v.transpose(-2, -1)
    for start in range(0, q.shape[-2], QUERY_ROWS):
        rows = slice(start, start + QUERY_ROWS)
        weights = ((q[..., rows, :] @ keys) * scale).softmax(dim=-1)
        mask = weights > cutoff
        grad_weights = (grad[..., rows, :] @ values) * mask
        grad_logits = weights * (grad_weights - (weights * grad_weights).sum(dim=-1, keepdim=True)) * scale
        grad_v += (weights * mask).transpose(-2, -1) @ grad[..., rows, :]
        grad_q[..., rows, :] = grad_logits @ k
        grad_k += grad_logits.transpose(-2, -1) @ q[..., rows, :]
    return grad_q.to(q.dtype), grad_k.to(q.dtype), grad_v.to(q.dtype)


@_strongest_softmax_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cutoff: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.contiguous_format
    return (
        torch.empty_like(q, memory_format=like),
        torch.empty_like(k, memory_format=like),
        torch.empty_like(v, memory_format=like),
    )


def _save_inputs(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, v, ctx.cutoff, ctx.scale = inputs
    ctx.save_for_backward(q, k, v)


def _backward(ctx: Any, grad: Tensor, grad_passed: Tensor | None) -> tuple:
    grads = torch.ops.fibo_robot.strongest_softmax_backward(grad, *ctx.saved_tensors, ctx.cutoff, ctx.scale)
    return (*grads, None, None)


_strongest_softmax.register_autograd(_backward, setup_context=_save_inputs)
