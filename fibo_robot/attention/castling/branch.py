"""The masked softmax branch that accompanies Castling's linear-angular attention in training.

The linear part of the angular similarity misjudges keys at small angles most. The branch adds the strongest
softmax weights back while training (Castling-ViT, arXiv 2211.10526, section 3), and is faded out.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.operator import empty_tokens_first
from fibo_robot.attention.registration import below_autograd, define_operator, without_autocast

QUERY_ROWS = 128  # queries whose weights are alive at once, where no kernel of its own computes the branch
SAMPLED_QUERIES, SAMPLED_EXAMPLES = 32, 4  # of each head, from which its threshold is found


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
    branch, passed, _ = torch.ops.fibo_robot.strongest_softmax.default(q, k, v, cutoffs, scale)
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
    last = torch.ops.fibo_robot.last_of_mass.default(q, k, mass, scale)
    # Below the last weight that is kept by more than rounding, so that those equal to it pass as well.
    return last * ((1 - 1e-6) * k.shape[2])


def _last_of_mass_anywhere(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    q, k = _sampled(q, k)
    weights = (scale * q.float() @ k.float().transpose(-2, -1)).softmax(dim=-1)
    ordered = weights.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    shares = ordered.cumsum(dim=1) / ordered.sum(dim=1, keepdim=True)
    index = (shares < mass).sum(dim=1, keepdim=True).clamp_max(ordered.shape[1] - 1)
    return ordered.gather(1, index).squeeze(1)


@without_autocast
def threshold_on_cpu(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    """See :func:`fibo_robot.attention.backends.numba.branch.last_of_mass`."""
    from fibo_robot.attention.backends.numba import blas as numba_blas
    from fibo_robot.attention.backends.numba import branch as numba_branch  # numba: slow to import

    if not numba_blas.is_available(torch.float32):
        return _last_of_mass_anywhere(q, k, mass, scale)
    return numba_branch.last_of_mass(*_sampled(q, k), mass, scale)


@without_autocast
def threshold_on_cuda(q: Tensor, k: Tensor, mass: float, scale: float) -> Tensor:
    """See :func:`fibo_robot.attention.backends.triton.branch.last_of_mass`."""
    from fibo_robot.attention.backends.triton import branch as triton_branch

    if not triton_branch.is_available(q):
        return _last_of_mass_anywhere(q, k, mass, scale)
    return triton_branch.last_of_mass(q, k, mass, scale, *_sample_sizes(q))


def _sampled(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The queries from which the thresholds are found, and the keys of their examples."""
    examples, queries = _sample_sizes(q)
    of_batch, of_tokens = _evenly(len(q), examples, q.device), _evenly(q.shape[2], queries, q.device)
    return q[of_batch][:, :, of_tokens], k if examples == len(q) else k[of_batch]


def _sample_sizes(q: Tensor) -> tuple[int, int]:
    """How many examples are sampled, and how many queries of each."""
    examples = min(len(q), SAMPLED_EXAMPLES)
    return examples, min(q.shape[2], SAMPLED_QUERIES // examples)


def _evenly(size: int, count: int, device: torch.device) -> Tensor:
    """Indices that lie evenly in range(size); not more of them than that."""
    return torch.arange(count, device=device) * size // count


def _branch_anywhere(
    q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    out, passed, lse = empty_tokens_first(v), [], []
    for rows in _query_rows(q):
        logits = _logits(q[:, :, rows], k, scale)
        lse.append(logits.logsumexp(dim=-1))
        weights = (logits - lse[-1][..., None]).exp()
        kept = weights.masked_fill(weights <= cutoffs[:, None, None], 0)
        passed.append(kept.sum(dtype=torch.float32))
        out[:, :, rows] = kept.to(v.dtype) @ v
    return out, torch.stack(passed).sum() / q.shape[:-1].numel(), torch.cat(lse, dim=-1)


@without_autocast
def branch_on_cpu(q: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`fibo_robot.attention.backends.numba.branch.strongest_softmax`, of all queries together."""
    from fibo_robot.attention.backends.numba import blas as numba_blas
    from fibo_robot.attention.backends.numba import branch as numba_branch

    if not numba_blas.is_available(q.dtype):
        return _branch_anywhere(q, *given)
    out, passed, lse = numba_branch.strongest_softmax(q, *given)
    return out, passed.mean(dtype=torch.float32), lse


@without_autocast
def branch_on_cuda(q: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`fibo_robot.attention.backends.triton.branch.strongest_softmax`, of all queries together."""
    from fibo_robot.attention.backends.triton import branch as triton_branch

    if not triton_branch.is_available(q):
        return _branch_anywhere(q, *given)
    out, passed, lse = triton_branch.strongest_softmax(q, *given)
    return out, passed.mean(), lse


def _branch_backward_anywhere(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q = empty_tokens_first(q)
    grad_k, grad_v = (empty_tokens_first(t, lse.dtype).zero_() for t in (k, v))
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


@without_autocast
def branch_backward_on_cpu(grad: Tensor, q: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`fibo_robot.attention.backends.numba.branch.strongest_softmax_backward`."""
    from fibo_robot.attention.backends.numba import blas as numba_blas
    from fibo_robot.attention.backends.numba import branch as numba_branch

    if not numba_blas.is_available(q.dtype):
        return _branch_backward_anywhere(grad, q, *given)
    return numba_branch.strongest_softmax_backward(grad, q, *given)


@without_autocast
def branch_backward_on_cuda(grad: Tensor, q: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`fibo_robot.attention.backends.triton.branch.strongest_softmax_backward`."""
    from fibo_robot.attention.backends.triton import branch as triton_branch

    if not triton_branch.is_available(q):
        return _branch_backward_anywhere(grad, q, *given)
    return triton_branch.strongest_softmax_backward(grad, q, *given)


def _query_rows(q: Tensor) -> list[slice]:
    """Blocks of query rows, of about one size."""
    num_tokens = q.shape[2]
    rows = ceil(num_tokens / ceil(num_tokens / QUERY_ROWS))
    return [slice(row, row + rows) for row in range(0, num_tokens, rows)]


def _logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """In float32 at least: half precision cannot tell nearly uniform weights apart."""
    logits = q @ k.transpose(-2, -1)
    return logits.to(torch.promote_types(q.dtype, torch.float32)) * scale


class _Branch(torch.autograd.Function):
    """The operator, whose derivative is the backward operator."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        operator = torch.ops.fibo_robot.strongest_softmax.default
        out, passed, lse = below_autograd(operator, q, k, v, cutoffs, scale)
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, out, lse, cutoffs)
        ctx.mark_non_differentiable(passed, lse)
        return out, passed, lse

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple:
        backward = torch.ops.fibo_robot.strongest_softmax_backward.default
        return (*backward(upstream[0], *ctx.saved_tensors, ctx.scale), None, None)


def _fake_threshold(q: Tensor, *given: Any) -> Tensor:
    return q.new_empty(q.shape[1], dtype=torch.float32)


def _fake_branch(q: Tensor, k: Tensor, v: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    lse = q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
    return empty_tokens_first(v), q.new_empty((), dtype=torch.float32), lse


def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_tokens_first(q), empty_tokens_first(k), empty_tokens_first(v)


define_operator(
    "last_of_mass(Tensor q, Tensor k, float mass, float scale) -> Tensor",
    on_cpu=threshold_on_cpu,
    on_cuda=threshold_on_cuda,
    anywhere=without_autocast(_last_of_mass_anywhere),
    fake=_fake_threshold,
)
define_operator(
    "strongest_softmax(Tensor q, Tensor k, Tensor v, Tensor cutoffs, float scale) -> "
    "(Tensor, Tensor, Tensor)",
    on_cpu=branch_on_cpu,
    on_cuda=branch_on_cuda,
    anywhere=without_autocast(_branch_anywhere),
    fake=_fake_branch,
    derivative=_Branch,
)
define_operator(
    "strongest_softmax_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "Tensor cutoffs, float scale) -> (Tensor, Tensor, Tensor)",
    on_cpu=branch_backward_on_cpu,
    on_cuda=branch_backward_on_cuda,
    anywhere=without_autocast(_branch_backward_anywhere),
    fake=_fake_backward,
    refusal="Castling's branch has no second derivative: set its scale to 0 (set_branch_scale).",
)
