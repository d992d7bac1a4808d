"""The torch operators around the sparse kernels: they work under autograd, AMP, torch.compile and export.

`fibo_robot::diagonal_attention` and its backward pass have one kernel per device, numba's on the CPU and
Triton's on CUDA, and PyTorch chooses between them when the operator runs: a graph that was exported on one
device works on the other. Offsets travel as one flat list of integers, so they are constants of a compiled
graph. Kernels choose their own precision: autocast is off inside them.

On short sequences an operator's price is what Python does around its kernel. So the two are defined by
`torch.library.Library`, not `custom_op`, and take `int[]`, not the `SymInt[]` that PyTorch infers from types:
forward and backward cost 67 microseconds beside their kernels instead of 150 (one core of an Intel Xeon).
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import accumulate, chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from fibo_robot.attention.errors import AttentionError

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


def without_autocast(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A kernel, its first argument a tensor, in whose matrix products autocast changes no precision.

    An operator's kernel runs with the caller's autocast on, its backward pass with none: the two would weigh
    pairs differently.
    """

    @wraps(kernel)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensor: Any = args[0]
        if not torch.is_autocast_enabled(tensor.device.type):
            return kernel(*args, **kwargs)
        with torch.autocast(tensor.device.type, enabled=False):
            return kernel(*args, **kwargs)

    return call


_SETTINGS = "int[] offsets, int[] starts, int num_prefix_tokens, bool zero_logit, float scale"
_library = torch.library.Library("fibo_robot", "FRAGMENT")
_library.define(f"diagonal_attention(Tensor q, Tensor k, Tensor v, {_SETTINGS}) -> (Tensor, Tensor)")
_library.define(
    "diagonal_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_SETTINGS}) -> Tensor"
)


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


class _Gradients(torch.autograd.Function):
    """A backward operator, which has no derivative."""

    @staticmethod
    def forward(ctx: Any, operator: Callable[..., Any], refusal: str, *given: Any) -> Any:
        ctx.refusal = refusal
        return below_autograd(operator, *given)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        raise AttentionError(ctx.refusal)


def below_autograd(operator: Callable[..., Any], *given: Any) -> Any:
    """Call an operator's kernel for the device."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*given)


def with_derivative(
    operator: Callable[..., Any], function: type[torch.autograd.Function]
) -> Callable[..., Any]:
    """What autograd calls for an operator: the function, where a gradient is asked for."""

    def call(*given: Any) -> Any:
        if _needs_gradient(given):
            return function.apply(*given)
        return below_autograd(operator, *given)

    return call


def without_derivative(operator: Callable[..., Any], refusal: str) -> Callable[..., Any]:
    """What autograd calls for a backward operator.

    Args:
        operator: the operator.
        refusal: what the error says to whoever differentiates it.
    """

    def call(*given: Any) -> Any:
        if _needs_gradient(given):
            return _Gradients.apply(operator, refusal, *given)
        return below_autograd(operator, *given)

    return call


def _needs_gradient(given: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in given)


def _fake(q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return empty_tokens_first(q), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


def _fake_backward(grad: Tensor, q: Tensor, *given: Any) -> Tensor:
    return empty_packed(q)


_library.impl("diagonal_attention", forward_on_cpu, "CPU")
_library.impl("diagonal_attention", forward_on_cuda, "CUDA")
_library.impl(
    "diagonal_attention",
    with_derivative(torch.ops.fibo_robot.diagonal_attention.default, _DiagonalAttention),
    "Autograd",
)
_library.impl("diagonal_attention_backward", backward_on_cpu, "CPU")
_library.impl("diagonal_attention_backward", backward_on_cuda, "CUDA")
_library.impl(
    "diagonal_attention_backward",
    without_derivative(
        torch.ops.fibo_robot.diagonal_attention_backward.default,
        "Diagonal attention has no second derivative by its kernels: use backend 'sdpa'.",
    ),
    "Autograd",
)
torch.library.register_fake("fibo_robot::diagonal_attention", _fake, lib=_library)
torch.library.register_fake("fibo_robot::diagonal_attention_backward", _fake_backward, lib=_library)
