"""The torch operators around the sparse kernels: they work under autograd, AMP, torch.compile and export.

`fibo_robot::diagonal_attention` and its backward pass have one kernel per device, numba's on the CPU and
Triton's on CUDA, and PyTorch chooses between them when the operator runs: a graph that was exported on one
device works on the other. Offsets travel as one flat list of integers, so they are constants of a compiled
graph. Kernels choose their own precision: autocast is off inside them.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.registration import below_autograd, define_operator, without_autocast

KERNEL_DEVICES = {"numba": "cpu", "triton": "cuda"}  # which device's kernel a backend's name stands for


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[Sequence[int]],
    *,
    num_prefix_tokens: int,
    mask_mode: str,
    scale: float,
) -> Tensor:
    """Diagonal attention on `(B, heads, N, head_dim)` by the device's kernel; see `diagonal_attention`."""
    flat = list(chain.from_iterable(offsets))
    starts = [0, *accumulate(map(len, offsets))]
    out, _ = torch.ops.fibo_robot.diagonal_attention.default(
        q, k, v, flat, starts, num_prefix_tokens, mask_mode == "zero_logit", scale
    )
    return out


def empty_tokens_first(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty `(B, heads, N, head_dim)` that lies in memory as `(B, N, heads, head_dim)`.

    So the next projection reads it without a copy.
    """
    batch, heads, tokens, head_dim = like.shape
    return like.new_empty((batch, tokens, heads, head_dim), dtype=dtype).transpose(1, 2)


def empty_packed(like: Tensor) -> Tensor:
    """An empty `(B, N, 3, heads, head_dim)`, as a projection of `(B, heads, N, head_dim)` is written."""
    batch, heads, tokens, head_dim = like.shape
    return like.new_empty((batch, tokens, 3, heads, head_dim))


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views `(B, heads, N, head_dim)` of a `(B, N, 3, heads, head_dim)`: q, k and v, or their gradients."""
    q, k, v = packed.unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


@without_autocast
def forward_on_cpu(q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; see :func:`fibo_robot.attention.backends.numba.cpu.forward`."""
    from fibo_robot.attention.backends.numba import cpu as numba_cpu  # numba: slow to import

    return numba_cpu.forward(q, *given)


@without_autocast
def forward_on_cuda(q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; see :func:`fibo_robot.attention.backends.triton.cuda.forward`."""
    from fibo_robot.attention.backends.triton import cuda as triton_cuda

    return triton_cuda.forward(q, *given)


@without_autocast
def backward_on_cpu(grad: Tensor, *given: Any) -> Tensor:
    """Gradients of q, k and v; see :func:`fibo_robot.attention.backends.numba.cpu.backward`."""
    from fibo_robot.attention.backends.numba import cpu as numba_cpu

    return numba_cpu.backward(grad, *given)


@without_autocast
def backward_on_cuda(grad: Tensor, *given: Any) -> Tensor:
    """Gradients of q, k and v; see :func:`fibo_robot.attention.backends.triton.cuda.backward`."""
    from fibo_robot.attention.backends.triton import cuda as triton_cuda

    return triton_cuda.backward(grad, *given)


class _DiagonalAttention(torch.autograd.Function):
    """The operator, whose derivative is the backward operator."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
        out, lse = below_autograd(torch.ops.fibo_robot.diagonal_attention.default, q, k, v, *settings)
        ctx.settings = settings
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple:
        backward = torch.ops.fibo_robot.diagonal_attention_backward.default
        grads = backward(upstream[0], *ctx.saved_tensors, *ctx.settings)
        return (*unpacked(grads), *[None] * len(ctx.settings))


def _fake(q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return empty_tokens_first(q), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


def _fake_backward(grad: Tensor, q: Tensor, *given: Any) -> Tensor:
    return empty_packed(q)


_SETTINGS = "int[] offsets, int[] starts, int num_prefix_tokens, bool zero_logit, float scale"
define_operator(
    f"diagonal_attention(Tensor q, Tensor k, Tensor v, {_SETTINGS}) -> (Tensor, Tensor)",
    on_cpu=forward_on_cpu,
    on_cuda=forward_on_cuda,
    fake=_fake,
    derivative=_DiagonalAttention,
)
define_operator(
    "diagonal_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_SETTINGS}) -> Tensor",
    on_cpu=backward_on_cpu,
    on_cuda=backward_on_cuda,
    fake=_fake_backward,
    refusal="Diagonal attention has no second derivative by its kernels: use backend 'sdpa'.",
)
