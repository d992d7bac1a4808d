"""The torch operator around the sparse kernels: works under autograd, AMP, torch.compile and torch.export.

`fibo_robot::diagonal_attention` hands its arguments to the backend module that `backend` names; such a module
has `forward` and `backward` (see backends/numba_cpu.py for their arguments). Offsets travel as one flat list
of integers, so they are constants of a compiled graph.
"""

import importlib
from collections.abc import Sequence
from itertools import accumulate, chain
from types import ModuleType

import torch
from torch import Tensor

KERNEL_MODULES = {
    "numba": "fibo_robot.attention.backends.numba_cpu",
    "triton": "fibo_robot.attention.backends.triton_cuda",
}


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[Sequence[int]],
    *,
    num_prefix_tokens: int,
    mask_mode: str,
    scale: float,
    backend: str,
) -> Tensor:
    """Diagonal attention on `(B, heads, N, head_dim)` through a sparse kernel; see `diagonal_attention`.

    Args:
        backend: a key of :data:`KERNEL_MODULES`.
    """
    flat = list(chain.from_iterable(offsets))
    starts = [0, *accumulate(len(head_set) for head_set in offsets)]
    zero_logit = mask_mode == "zero_logit"
    out, _ = torch.ops.fibo_robot.diagonal_attention(
        q, k, v, flat, starts, num_prefix_tokens, zero_logit, scale, backend
    )
    return out


def _kernels(backend: str) -> ModuleType:
    return importlib.import_module(KERNEL_MODULES[backend])


@torch.library.custom_op("fibo_robot::diagonal_attention", mutates_args=())
def _diagonal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _kernels(backend).forward(q, k, v, offsets, starts, num_prefix_tokens, zero_logit, scale)


@_diagonal_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.custom_op("fibo_robot::diagonal_attention_backward", mutates_args=())
def _diagonal_attention_backward(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels(backend).backward(
        grad, q, k, v, out, lse, offsets, starts, num_prefix_tokens, zero_logit, scale
    )


@_diagonal_attention_backward.register_fake
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad: Tensor, grad_lse: Tensor | None) -> tuple:
    grads = torch.ops.fibo_robot.diagonal_attention_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return (*grads, *[None] * len(ctx.settings))


_diagonal_attention.register_autograd(_differentiate, setup_context=_save)
