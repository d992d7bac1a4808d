"""The torch operators around the sparse kernels: they work under autograd, AMP, torch.compile and export.

`fibo_robot::diagonal_attention` and its backward pass have one kernel per device, numba's on the CPU and
Triton's on CUDA, and PyTorch chooses between them when the operator runs: a graph that was exported on one
device works on the other. Offsets travel as one flat list of integers, so they are constants of a compiled
graph. Kernels choose their own precision: autocast is off inside them.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import accumulate, chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

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
    starts = [0, *accumulate(len(head_set) for head_set in offsets)]
    out, _ = torch.ops.fibo_robot.diagonal_attention(
        q, k, v, flat, starts, num_prefix_tokens, mask_mode == "zero_logit", scale
    )
    return out


def empty_tokens_first(like: Tensor) -> Tensor:
    """An empty `(B, heads, N, head_dim)` that lies in memory as `(B, N, heads, head_dim)`."""
    batch, heads, tokens, head_dim = like.shape
    return like.new_empty((batch, tokens, heads, head_dim)).transpose(1, 2)


def empty_packed(like: Tensor) -> Tensor:
    """An empty `(B, N, 3, heads, head_dim)`, as a projection of `(B, heads, N, head_dim)` is written."""
    batch, heads, tokens, head_dim = like.shape
    return like.new_empty((batch, tokens, 3, heads, head_dim))


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views `(B, heads, N, head_dim)` of a `(B, N, 3, heads, head_dim)`: q, k and v, or their gradients."""
    q, k, v = packed.unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def result_like(q: Tensor) -> Tensor:
    """An empty result of Castling's operators: tokens first in memory on a CPU, contiguous elsewhere."""
    return empty_tokens_first(q) if q.device.type == "cpu" else q.new_empty(q.shape)


def without_autocast(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A kernel, its first argument a tensor, in whose matrix products autocast changes no precision.

    An operator's kernel runs with the caller's autocast on, its backward pass with none: the two would weigh
    pairs differently.
    """

    @wraps(kernel)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensor: Any = args[0]
        with torch.autocast(tensor.device.type, enabled=False):
            return kernel(*args, **kwargs)

    return call


@torch.library.custom_op("fibo_robot::diagonal_attention", mutates_args=(), device_types="cpu")
@without_autocast
def diagonal_attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; see :func:`fibo_robot.attention.backends.numba_cpu.forward`."""
    from fibo_robot.attention.backends import numba_cpu  # numba: slow to import

    return numba_cpu.forward(q, k, v, offsets, starts, num_prefix_tokens, zero_logit, scale)


@diagonal_attention_forward.register_kernel("cuda")
@without_autocast
def forward_on_cuda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; see :func:`fibo_robot.attention.backends.triton_cuda.forward`."""
    from fibo_robot.attention.backends import triton_cuda

    return triton_cuda.forward(q, k, v, offsets, starts, num_prefix_tokens, zero_logit, scale)


@diagonal_attention_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return empty_tokens_first(q), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.custom_op("fibo_robot::diagonal_attention_backward", mutates_args=(), device_types="cpu")
@without_autocast
def diagonal_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> Tensor:
    """Gradients of q, k and v; see :func:`fibo_robot.attention.backends.numba_cpu.backward`."""
    from fibo_robot.attention.backends import numba_cpu

    settings = (offsets, starts, num_prefix_tokens, zero_logit, scale)
    return numba_cpu.backward(grad, q, k, v, out, lse, *settings)


@diagonal_attention_backward.register_kernel("cuda")
@without_autocast
def backward_on_cuda(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> Tensor:
    """Gradients of q, k and v; see :func:`fibo_robot.attention.backends.triton_cuda.backward`."""
    from fibo_robot.attention.backends import triton_cuda

    settings = (offsets, starts, num_prefix_tokens, zero_logit, scale)
    return triton_cuda.backward(grad, q, k, v, out, lse, *settings)


@diagonal_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> Tensor:
    return empty_packed(q)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, grad_lse: Tensor | None) -> tuple:
    grads = torch.ops.fibo_robot.diagonal_attention_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return (*unpacked(grads), *[None] * len(ctx.settings))


diagonal_attention_forward.register_autograd(_differentiate, setup_context=_save)
