"""Castling's linear-angular attention, and the masked softmax branch that accompanies it in training.

The angle between q and k gives the similarity 1 - θ/π = 1/2 + cos(θ)/π + higher odd powers of cos(θ)
(Castling-ViT, arXiv 2211.10526, section 3). Keeping the linear part, q̂(k̂ᵀV) costs O(N·d²); the largest error
of the similarity is 0.182, at |cos θ| = 1. The branch adds the strongest softmax weights back while training.
"""

from math import ceil
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.operator import result_like, without_autocast

ConstantTerm = Literal["own", "sum", "mean"]
CONSTANT_TERMS: tuple[str, ...] = get_args(ConstantTerm)

NORM_EPSILON = 1e-6  # a zero token stays zero; the released code divides 0 by 0
QUERY_ROWS = 128  # queries of the branch whose weights are alive at once
SAMPLED_QUERIES, SAMPLED_EXAMPLES = 32, 4  # of each head, from which its threshold is found


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
    return convolve(v, taps, out)


_castling_inference = torch.library.custom_op(
    "fibo_robot::castling_inference", without_autocast(_inference_anywhere), mutates_args=()
)


@_castling_inference.register_kernel("cpu")
@without_autocast
def _(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    from fibo_robot.attention.backends.numba import angular as numba_angular
    from fibo_robot.attention.backends.numba import blas as numba_blas  # numba: slow to import

    if not numba_blas.is_available(q.dtype):
        return _inference_anywhere(q, k, v, const_term, taps)
    # Half precision is computed in float32, and rounded once.
    dtype, given = torch.promote_types(q.dtype, torch.float32), q.dtype
    q, k, v, taps = (tensor.to(dtype) for tensor in (q, k, v, taps))
    term = cast(ConstantTerm, const_term)
    return numba_angular.forward(q, k, v, None, 0.0, taps, term, training=False).out.to(given)


@_castling_inference.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, const_term: str, taps: Tensor) -> Tensor:
    return result_like(v)


def strongest_softmax(
    q: Tensor, k: Tensor, v: Tensor, *, threshold: float | Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The training branch: (M ⊙ S)·V with S = softmax(q·kᵀ·scale) and M = S > threshold / N.

    M is a constant for the gradient, and the kept weights are not renormalised. The threshold is relative to
    uniform attention, because the released 0.02 is 4 times uniform at 196 tokens but below uniform at 49.
    Weights are computed for a block of query rows at a time, in the backward pass too, so no more than
    `(B, heads, QUERY_ROWS, N)` of them are alive at once, on a CPU (backends/numba/branch.py) no more than
    fit its cache, and on CUDA (backends/triton/branch.py) no more than fit its registers.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; q and k as projected, not normalised.
        threshold: c, in multiples of the uniform weight 1/N; one number, or `(heads,)` of them in float32
            from :func:`threshold_of_mass`.
        scale: factor on q·k, above 0.

    Returns:
        The branch `(B, heads, N, head_dim)`, and the share of softmax mass that the mask passed, a scalar.
    """
    heads, num_tokens = k.shape[1:3]
    if isinstance(threshold, Tensor):
        cutoffs = threshold.to(q.device, torch.float32).expand(heads) / num_tokens
    else:  # written by the device itself: a copy to it would wait
        cutoffs = torch.full((heads,), threshold / num_tokens, dtype=torch.float32, device=q.device)
    branch, passed, _ = torch.ops.fibo_robot.strongest_softmax(q, k, v, cutoffs, scale)
    return branch, passed.detach()


@torch.no_grad()
def threshold_of_mass(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    """The threshold of each head above which its softmax weights carry the share `mass` of the whole.

    It follows from the batch alone, through SAMPLED_QUERIES rows of each head that lie evenly in batch and
    sequence: the share that all rows pass is `mass` up to sampling. Equal weights pass or fail together.

    Args:
        q, k: `(B, heads, N, head_dim)`, not normalised.
        mass: in (0, 1]; at 1 every weight passes.
        scale: factor on q·k.

    Returns:
        `(heads,)` in float32, in multiples of the uniform weight 1/N, for :func:`strongest_softmax`.
    """
    batch, _, num_tokens, _ = q.shape
    of_batch = _evenly(batch, SAMPLED_EXAMPLES, q.device)
    of_tokens = _evenly(num_tokens, SAMPLED_QUERIES // len(of_batch), q.device)
    queries, keys = q[of_batch][:, :, of_tokens], k if len(of_batch) == batch else k[of_batch]
    last = torch.ops.fibo_robot.last_of_mass(queries, keys, mass, scale)
    # Below the last weight that is kept by more than rounding, so that those equal to it pass as well.
    return last * (1 - 1e-6) * num_tokens


def _last_of_mass_anywhere(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    weights = (scale * q.float() @ k.float().transpose(-2, -1)).softmax(dim=-1)
    ordered = weights.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    shares = ordered.cumsum(dim=1) / ordered.sum(dim=1, keepdim=True)
    index = (shares < mass).sum(dim=1, keepdim=True).clamp_max(ordered.shape[1] - 1)
    return ordered.gather(1, index).squeeze(1)


_last_of_mass = torch.library.custom_op(
    "fibo_robot::last_of_mass", without_autocast(_last_of_mass_anywhere), mutates_args=()
)


@_last_of_mass.register_kernel("cpu")
@without_autocast
def _(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    from fibo_robot.attention.backends.numba import blas as numba_blas
    from fibo_robot.attention.backends.numba import branch as numba_branch  # numba: slow to import

    if not numba_blas.is_available(torch.float32):
        return _last_of_mass_anywhere(q, k, mass, scale)
    return numba_branch.last_of_mass(q, k, mass, scale)


@_last_of_mass.register_fake
def _(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    return q.new_empty(q.shape[1], dtype=torch.float32)


def _evenly(size: int, count: int, device: torch.device) -> Tensor:
    """At most `count` indices that lie evenly in range(size)."""
    count = min(count, size)
    return torch.arange(count, device=device) * size // count


def _branch_anywhere(
    q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, passed, lse = torch.empty_like(v, memory_format=torch.contiguous_format), [], []
    for rows in _query_rows(q):
        logits = _logits(q[:, :, rows], k, scale)
        lse.append(logits.logsumexp(dim=-1))
        weights = (logits - lse[-1][..., None]).exp()
        kept = weights.masked_fill(weights <= cutoffs[:, None, None], 0)
        passed.append(kept.sum(dtype=torch.float32))
        out[:, :, rows] = kept.to(v.dtype) @ v
    return out, torch.stack(passed).sum() / q.shape[:-1].numel(), torch.cat(lse, dim=-1)


branch_operator = torch.library.custom_op(
    "fibo_robot::strongest_softmax", without_autocast(_branch_anywhere), mutates_args=()
)


@branch_operator.register_kernel("cpu")
@without_autocast
def _(q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    from fibo_robot.attention.backends.numba import blas as numba_blas
    from fibo_robot.attention.backends.numba import branch as numba_branch

    if not numba_blas.is_available(q.dtype):
        return _branch_anywhere(q, k, v, cutoffs, scale)
    out, passed, lse = numba_branch.strongest_softmax(q, k, v, cutoffs, scale)
    return out, passed.mean(dtype=torch.float32), lse


@branch_operator.register_kernel("cuda")
@without_autocast
def branch_on_cuda(
    q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`fibo_robot.attention.backends.triton.branch.strongest_softmax`, of all queries together."""
    from fibo_robot.attention.backends.triton import branch as triton_branch

    if not triton_branch.is_available(q):
        return _branch_anywhere(q, k, v, cutoffs, scale)
    out, passed, lse = triton_branch.strongest_softmax(q, k, v, cutoffs, scale)
    return out, passed.mean(), lse


@branch_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    lse = q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
    return result_like(v), q.new_empty((), dtype=torch.float32), lse


def _branch_backward_anywhere(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = (torch.zeros(t.shape, dtype=lse.dtype, device=t.device) for t in (k, v))
    for rows in _query_rows(q):
        weights = (_logits(q[:, :, rows], k, scale) - lse[:, :, rows, None]).exp()
        masked = weights <= cutoffs[:, None, None]
        grad_kept = (grad[:, :, rows] @ v.transpose(-2, -1)).to(weights.dtype).masked_fill(masked, 0)
        # The sum of a query's weights by their gradients is its gradient by its output.
        delta = (grad[:, :, rows].to(weights.dtype) * out[:, :, rows]).sum(dim=-1, keepdim=True)
        grad_logits = weights * (grad_kept - delta) * scale
        grad_logits = grad_logits.to(k.dtype)
        grad_q[:, :, rows] = grad_logits @ k
        grad_k += grad_logits.transpose(-2, -1) @ q[:, :, rows]
        grad_v += weights.masked_fill(masked, 0).to(v.dtype).transpose(-2, -1) @ grad[:, :, rows]
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


branch_backward_operator = torch.library.custom_op(
    "fibo_robot::strongest_softmax_backward", without_autocast(_branch_backward_anywhere), mutates_args=()
)


@branch_backward_operator.register_kernel("cpu")
@without_autocast
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from fibo_robot.attention.backends.numba import blas as numba_blas
    from fibo_robot.attention.backends.numba import branch as numba_branch

    if not numba_blas.is_available(q.dtype):
        return _branch_backward_anywhere(grad, q, k, v, out, lse, cutoffs, scale)
    return numba_branch.strongest_softmax_backward(grad, q, k, v, out, lse, cutoffs, scale)


@branch_backward_operator.register_kernel("cuda")
@without_autocast
def branch_backward_on_cuda(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`fibo_robot.attention.backends.triton.branch.strongest_softmax_backward`."""
    from fibo_robot.attention.backends.triton import branch as triton_branch

    if not triton_branch.is_available(q):
        return _branch_backward_anywhere(grad, q, k, v, out, lse, cutoffs, scale)
    return triton_branch.strongest_softmax_backward(grad, q, k, v, out, lse, cutoffs, scale)


@branch_backward_operator.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return result_like(q), result_like(k), result_like(v)


def _query_rows(q: Tensor) -> list[slice]:
    """Blocks of query rows, of about one size."""
    num_tokens = q.shape[2]
    rows = ceil(num_tokens / ceil(num_tokens / QUERY_ROWS))
    return [slice(row, row + rows) for row in range(0, num_tokens, rows)]


def _logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """In float32 at least: half precision cannot tell nearly uniform weights apart."""
    logits = q @ k.transpose(-2, -1)
    return logits.to(torch.promote_types(q.dtype, torch.float32)) * scale


def _save_inputs(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, cutoffs, ctx.scale = inputs
    out, _, lse = output
    ctx.save_for_backward(*tensors, out, lse, cutoffs)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple:
    grads = torch.ops.fibo_robot.strongest_softmax_backward(grad, *ctx.saved_tensors, ctx.scale)
    return (*grads, None, None)


branch_operator.register_autograd(_backward, setup_context=_save_inputs)
