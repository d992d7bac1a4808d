"""Castling's linear-angular attention; branch.py has the masked softmax that accompanies it in training.

The angle between q and k gives the similarity 1 - θ/π = 1/2 + cos(θ)/π + higher odd powers of cos(θ)
(Castling-ViT, arXiv 2211.10526, section 3). Keeping the linear part, q̂(k̂ᵀV) costs O(N·d²); the largest error
of the similarity is 0.182, at |cos θ| = 1.
"""

from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.operator import empty_tokens_first
from fibo_robot.attention.registration import define_operator, without_autocast

ConstantTerm = Literal["own", "sum", "mean"]
CONSTANT_TERMS: tuple[str, ...] = get_args(ConstantTerm)

NORM_EPSILON = 1e-6  # a zero token stays zero; the released code divides 0 by 0


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

    One operator, so that the CPU can do it in two passes over memory (backends/numba/angular.py).

    Args:
        q, k, v: `(B, heads, N, head_dim)`.
        const_term: as in :func:`linear_angular`.
        taps: `(heads, taps)`, an odd number of filter weights per head; None: no convolution.

    Returns:
        `(B, heads, N, head_dim)`: y / ‖y‖ + taps * v with y = const/2 + q̂(k̂ᵀV)/π.
    """
    taps = v.new_zeros(q.shape[1], 0) if taps is None else taps
    return torch.ops.fibo_robot.castling_inference(q, k, v, const_term, taps)


def convolve(v: Tensor, taps: Tensor, onto: Tensor) -> Tensor:
    """A depthwise convolution of v along the tokens, added onto a tensor of its shape.

    Args:
        v: `(B, heads, N, head_dim)`.
        taps: `(heads, taps)`, an odd number of filter weights per head, or none.
        onto: of v's shape.
    """
    if taps.shape[1] == 0:
        return onto
    return onto + F.conv2d(v, taps[:, None, :, None], padding=(taps.shape[1] // 2, 0), groups=len(taps))


def _inference_anywhere(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    out = F.normalize(linear_angular(q, k, v, cast(ConstantTerm, const_term)), dim=-1, eps=NORM_EPSILON)
    return empty_tokens_first(v).copy_(convolve(v, taps, out))


@without_autocast
def inference_on_cpu(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    """As :func:`castling_inference`; see :mod:`fibo_robot.attention.backends.numba.angular`."""
    from fibo_robot.attention.backends.numba import angular as numba_angular
    from fibo_robot.attention.backends.numba import blas as numba_blas  # numba: slow to import

    if not numba_blas.is_available(q.dtype):
        return _inference_anywhere(q, k, v, const_term, taps)
    # Half precision is computed in float32, and rounded once.
    dtype, given = torch.promote_types(q.dtype, torch.float32), q.dtype
    q, k, v, taps = (tensor.to(dtype) for tensor in (q, k, v, taps))
    term = cast(ConstantTerm, const_term)
    return numba_angular.forward(q, k, v, None, 0.0, taps, term, training=False).out.to(given)


@without_autocast
def inference_on_cuda(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    """As :func:`castling_inference`; see :mod:`fibo_robot.attention.backends.triton.angular`."""
    if not kernels_on_cuda(q):
        return _inference_anywhere(q, k, v, const_term, taps)
    from fibo_robot.attention.backends.triton import angular as triton_angular

    return triton_angular.forward(q, k, v, None, None, taps, const_term, training=False).out


def kernels_on_cuda(q: Tensor) -> bool:
    """Whether the kernels of :mod:`fibo_robot.attention.backends.triton.angular` take such queries."""
    if q.dtype == torch.float32:
        return q.shape[-1] <= 64  # twice that takes more shared memory than an H100 has
    return q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= 128


define_operator(
    "castling_inference(Tensor q, Tensor k, Tensor v, str const_term, Tensor taps) -> Tensor",
    on_cpu=inference_on_cpu,
    on_cuda=inference_on_cuda,
    anywhere=without_autocast(_inference_anywhere),
    fake=lambda q, k, v, const_term, taps: empty_tokens_first(v),
    refusal="castling_inference is without gradients: call castling_training.",
)
