"""Castling's linear-angular attention, and the masked softmax branch that accompanies it in training.

The angle between q and k gives the similarity 1 - θ/π = 1/2 + cos(θ)/π + higher odd powers of cos(θ)
(Castling-ViT, arXiv 2211.10526, section 3). Keeping the linear part, q̂(k̂ᵀV) costs O(N·d²); the largest error
of the similarity is 0.182, at |cos θ| = 1. The branch adds the strongest softmax weights back while training.
"""

from collections.abc import Iterator
from math import ceil
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.operator import without_autocast

ConstantTerm = Literal["own", "sum", "mean"]
CONSTANT_TERMS: tuple[str, ...] = get_args(ConstantTerm)

NORM_EPSILON = 1e-6  # a zero token stays zero; the released code divides 0 by 0
QUERY_ROWS = 128  # queries of the branch whose weights are alive at once
CACHED_WEIGHTS = 2**18  # of them on a CPU: a megabyte in float32
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
    q: Tensor, k: Tensor, v: Tensor, *, threshold: float | Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The training branch: (M ⊙ S)·V with S = softmax(q·kᵀ·scale) and M = S > threshold / N.

    M is a constant for the gradient, and the kept weights are not renormalised. The threshold is relative to
    uniform attention, because the released 0.02 is 4 times uniform at 196 tokens but below uniform at 49.
    Weights are computed for a block of query rows at a time, in the backward pass too, so no more than
    `(B, heads, QUERY_ROWS, N)` of them are alive at once, and on a CPU no more than fit its cache.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; q and k as projected, not normalised.
        threshold: c, in multiples of the uniform weight 1/N; one number, or `(heads,)` of them in float32
            from :func:`threshold_of_mass`.
        scale: factor on q·k.

    Returns:
        The branch `(B, heads, N, head_dim)`, and the share of softmax mass that the mask passed, a scalar.
    """
    heads, num_tokens = k.shape[1:3]
    given = torch.as_tensor(threshold, dtype=torch.float32, device=q.device)
    branch, passed = torch.ops.fibo_robot.strongest_softmax(q, k, v, given.expand(heads) / num_tokens, scale)
    return branch, passed.detach()


@torch.no_grad()
@without_autocast
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
    queries, keys = q[of_batch][:, :, of_tokens].float(), k[of_batch].float()
    weights = _softmax(queries * scale, keys)
    ordered = weights.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    shares = ordered.cumsum(dim=1) / ordered.sum(dim=1, keepdim=True)
    last = (shares < mass).sum(dim=1, keepdim=True).clamp_max(ordered.shape[1] - 1)
    # Below the last weight that is kept by more than rounding, so that those equal to it pass as well.
    return ordered.gather(1, last).squeeze(1) * (1 - 1e-6) * num_tokens


def _evenly(size: int, count: int, device: torch.device) -> Tensor:
    """At most `count` indices that lie evenly in range(size)."""
    count = min(count, size)
    return torch.arange(count, device=device) * size // count


Place = tuple[slice, slice, slice]


def _blocks(q: Tensor, cutoffs: Tensor) -> Iterator[tuple[Place, Place, float | Tensor]]:
    """Which weights of `q (heads, B, N, head_dim)` are computed together.

    Yields:
        The place of a block's queries, that of its keys, and its cutoff.
    """
    batch, num_tokens = q.shape[1:3]
    rows = ceil(num_tokens / ceil(num_tokens / QUERY_ROWS))  # blocks of one size
    parts = [slice(row, row + rows) for row in range(0, num_tokens, rows)]
    whole = slice(None)
    if q.device.type != "cpu":
        # A GPU is kept busy by a large block, and would have to wait for a cutoff that is a number.
        for part in parts:
            yield (whole, whole, part), (whole, whole, whole), cutoffs.view(-1, 1, 1, 1)
        return
    # On a CPU, what is done to a weight after its product is fast while the block stays in its cache.
    together = max(1, CACHED_WEIGHTS // (rows * num_tokens))
    for head, cutoff in enumerate(cutoffs.tolist()):
        for first in range(0, batch, together):
            place = slice(head, head + 1), slice(first, first + together)
            for part in parts:
                yield (*place, part), (*place, whole), cutoff


def _by_head(*tensors: Tensor) -> list[Tensor]:
    """`(B, heads, …)` as contiguous `(heads, B, …)`: products of far-apart rows are slower than this copy."""
    return [tensor.transpose(0, 1).contiguous() for tensor in tensors]


def _softmax(q: Tensor, k: Tensor) -> Tensor:
    """Weights in float32 at least: half precision cannot tell nearly uniform ones apart."""
    logits = q @ k.transpose(-2, -1)
    return logits.softmax(dim=-1, dtype=torch.promote_types(q.dtype, torch.float32))


def _where_above(weights: Tensor, cutoff: float | Tensor, values: Tensor) -> Tensor:
    """The values whose weights are above the cutoff, and 0 in place of the others."""
    if isinstance(cutoff, Tensor):
        return values.masked_fill(weights <= cutoff, 0)
    return torch.ops.aten.threshold_backward(values, weights, cutoff)  # in one pass


@torch.library.custom_op("fibo_robot::strongest_softmax", mutates_args=())
@without_autocast
def _strongest_softmax(
    q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(v, memory_format=torch.contiguous_format)
    passed = torch.zeros((), dtype=torch.float32, device=q.device)
    by_head = out.transpose(0, 1)
    q, k, v = _by_head(q * scale, k, v)
    for queries, keys, cutoff in _blocks(q, cutoffs):
        weights = _softmax(q[queries], k[keys])
        kept = _where_above(weights, cutoff, weights)
        passed += kept.sum(dtype=torch.float32)
        by_head[queries] = kept.to(v.dtype) @ v[keys]
    return out, passed / q.shape[:-1].numel()


@_strongest_softmax.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), q.new_empty((), dtype=torch.float32)


@torch.library.custom_op("fibo_robot::strongest_softmax_backward", mutates_args=())
@without_autocast
def _strongest_softmax_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    # Sums over the blocks are kept in float32 at least.
    sums = torch.promote_types(q.dtype, torch.float32)
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = (torch.zeros(t.shape, dtype=sums, device=t.device) for t in (k, v))
    q, k, v, grad = _by_head(q * scale, k, v, grad)
    into_q, into_k, into_v = (tensor.transpose(0, 1) for tensor in (grad_q, grad_k, grad_v))
    for queries, keys, cutoff in _blocks(q, cutoffs):
        weights = _softmax(q[queries], k[keys])
        kept = _where_above(weights, cutoff, weights)
        grad_weights = (grad[queries] @ v[keys].transpose(-2, -1)).to(weights.dtype)
        grad_kept = _where_above(weights, cutoff, grad_weights)
        grad_logits = torch.ops.aten._softmax_backward_data(grad_kept, weights, -1, weights.dtype).to(k.dtype)
        into_q[queries] = grad_logits @ k[keys]
        into_k[keys] += grad_logits.transpose(-2, -1) @ q[queries]
        into_v[keys] += kept.to(v.dtype).transpose(-2, -1) @ grad[queries]
    return grad_q.mul_(scale), grad_k.to(k.dtype), grad_v.to(v.dtype)


@_strongest_softmax_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.contiguous_format
    return (
        torch.empty_like(q, memory_format=like),
        torch.empty_like(k, memory_format=like),
        torch.empty_like(v, memory_format=like),
    )


def _save_inputs(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor, grad_passed: Tensor | None) -> tuple:
    grads = torch.ops.fibo_robot.strongest_softmax_backward(grad, *ctx.saved_tensors, ctx.scale)
    return (*grads, None, None)


_strongest_softmax.register_autograd(_backward, setup_context=_save_inputs)
