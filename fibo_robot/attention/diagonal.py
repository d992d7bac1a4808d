"""Sparse diagonal attention: each head looks only along its own diagonals of the attention matrix.

`diagonal_attention` is the one entry: it checks its input, chooses a backend and calls it. The backends
(fibo_robot/attention/backends) compute the same function; `choose_backend` holds what was measured about
which of them is faster where.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from fibo_robot.attention.backends.sdpa import sdpa_attention
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.operator import sparse_attention
from fibo_robot.attention.reference import reference_attention

MaskMode = Literal["drop", "zero_logit"]
Backend = Literal["reference", "sdpa", "numba", "triton"]
MASK_MODES: tuple[str, ...] = get_args(MaskMode)
BACKENDS: tuple[str, ...] = get_args(Backend)

BACKEND_VARIABLE = "FIBO_ATTENTION_BACKEND"
LARGEST_HEAD_DIM = 256
SHORTEST_FOR_NUMBA = 128
SHORTEST_FOR_TRITON = 1024
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_forced_backend: ContextVar[str | None] = ContextVar("fibo_attention_backend", default=None)


def diagonal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[Sequence[int]],
    *,
    num_prefix_tokens: int = 1,
    mask_mode: MaskMode = "drop",
    scale: float | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Attention in which patch tokens j and k meet in a head only when |j - k| is one of its offsets.

    Prefix tokens (class, registers) stand first in the sequence; their rows and columns are always on. A
    query without any key (possible only without prefix tokens, in `drop` mode) gives zeros. NaNs in the
    input spread to the outputs that depend on them, as in dense attention.

    Args:
        q, k, v: `(B, heads, N, head_dim)`, one dtype and device, head_dim up to 256; any strides.
        offsets: one sequence of offsets per head, each offset in [0, N - num_prefix_tokens).
        num_prefix_tokens: how many leading tokens are no patches.
        mask_mode: `drop`: a masked pair has no weight (its logit is -inf). `zero_logit`: its logit is 0
            before the softmax, so it keeps the weight e⁰ (what the 2024 training code computed).
        scale: factor on q·k; head_dim ** -0.5 when None.
        backend: one of :data:`BACKENDS`; None follows :func:`force_backend`, then the environment variable
            FIBO_ATTENTION_BACKEND, then :func:`choose_backend`.

    Returns:
        `(B, heads, N, head_dim)` in the dtype of `q`.

    Raises:
        AttentionError: naming the argument that is wrong.
    """
    _check_tensors(q, k, v)
    head_sets = _check_offsets(offsets, q.shape[1], q.shape[2], num_prefix_tokens)
    if mask_mode not in MASK_MODES:
        raise AttentionError(f"mask_mode must be one of {', '.join(MASK_MODES)}, not {mask_mode!r}.")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    name = _resolve_backend(backend, q)
    if name == "reference":
        function = reference_attention
    elif name == "sdpa":
        function = sdpa_attention
    else:
        _check_kernel(name, q)
        function = partial(sparse_attention, backend=name)
    return function(q, k, v, head_sets, num_prefix_tokens=num_prefix_tokens, mask_mode=mask_mode, scale=scale)


def choose_backend(device: torch.device, num_tokens: int, dtype: torch.dtype) -> Backend:
    """The backend measured fastest for this device, sequence length and dtype.

    On a CPU, numba wins from SHORTEST_FOR_NUMBA tokens on. On CUDA the Triton kernel is chosen for long
    sequences; where exactly it starts to win is not yet measured on a GPU. Any other device computes the
    dense mask through PyTorch's kernels.
    """
    if device.type == "cpu" and num_tokens >= SHORTEST_FOR_NUMBA:
        return "numba"
    if device.type == "cuda" and num_tokens >= SHORTEST_FOR_TRITON and dtype != torch.float64:
        return "triton"
    return "sdpa"


@contextmanager
def force_backend(backend: Backend) -> Iterator[None]:
    """Inside this context, calls that name no backend use `backend`.

    Raises:
        AttentionError: if there is no such backend.
    """
    token = _forced_backend.set(_check_backend(backend, "backend"))
    try:
        yield
    finally:
        _forced_backend.reset(token)


def _resolve_backend(backend: str | None, q: Tensor) -> str:
    if backend is not None:
        return _check_backend(backend, "backend")
    forced = _constant_forced_backend()
    if forced is not None:
        return forced
    from_environment = os.environ.get(BACKEND_VARIABLE)
    if from_environment:
        return _check_backend(from_environment, BACKEND_VARIABLE)
    return choose_backend(q.device, q.shape[-2], q.dtype)


@torch.compiler.assume_constant_result
def _constant_forced_backend() -> str | None:
    """The override as a constant of a compiled graph; PyTorch 2.11 traces no context variable."""
    return _forced_backend.get()


def _check_backend(backend: str, source: str) -> str:
    if backend not in BACKENDS:
        raise AttentionError(f"{source} must be one of {', '.join(BACKENDS)}, not {backend!r}.")
    return backend


def _check_kernel(backend: str, q: Tensor) -> None:
    wanted = {"numba": "cpu", "triton": "cuda"}[backend]
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if q.device.type != wanted and not interpreted:
        raise AttentionError(f"backend {backend!r} needs tensors on {wanted}, but q is on {q.device}.")
    if backend == "triton" and q.dtype == torch.float64:
        raise AttentionError("backend 'triton' computes in float32 and takes no float64 q: use 'sdpa'.")


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.ndim != 4:
        raise AttentionError(f"q must be (batch, heads, tokens, head_dim), not {tuple(q.shape)}.")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.shape != q.shape:
            raise AttentionError(f"{name} must have q's shape {tuple(q.shape)}, not {tuple(tensor.shape)}.")
        if tensor.dtype != q.dtype:
            raise AttentionError(f"{name} must have q's dtype {q.dtype}, not {tensor.dtype}.")
        if tensor.device != q.device:
            raise AttentionError(f"{name} must be on q's device {q.device}, not {tensor.device}.")
    if q.dtype not in FLOAT_DTYPES:
        raise AttentionError(f"q, k and v must be float16, bfloat16, float32 or float64, not {q.dtype}.")
    batch, heads, tokens, head_dim = q.shape
    if batch == 0 or heads == 0 or tokens == 0 or head_dim == 0:
        raise AttentionError(f"q must not be empty, but its shape is {tuple(q.shape)}.")
    if head_dim > LARGEST_HEAD_DIM:
        raise AttentionError(f"q's head_dim must be at most {LARGEST_HEAD_DIM}, not {head_dim}.")


def _check_offsets(
    offsets: Sequence[Sequence[int]], num_heads: int, num_tokens: int, num_prefix_tokens: int
) -> tuple[tuple[int, ...], ...]:
    if not 0 <= num_prefix_tokens <= num_tokens:
        raise AttentionError(
            f"num_prefix_tokens must lie between 0 and the {num_tokens} tokens of q, not {num_prefix_tokens}."
        )
    if len(offsets) != num_heads:
        raise AttentionError(f"offsets must hold one set per head of q ({num_heads}), not {len(offsets)}.")
    head_sets = tuple(tuple(sorted(set(head_set))) for head_set in offsets)
    num_patches = num_tokens - num_prefix_tokens
    for head, head_set in enumerate(head_sets):
        for offset in head_set:
            if not 0 <= offset < num_patches:
                raise AttentionError(
                    f"offsets of head {head} must lie in [0, {num_patches}), the patch tokens of q, "
                    f"but hold {offset}."
                )
    return head_sets
