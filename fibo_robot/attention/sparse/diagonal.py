"""Sparse diagonal attention: each head looks only along its own diagonals of the attention matrix.

`diagonal_attention` is the one entry: it checks its input, chooses a backend and calls it. The backends
(fibo_robot/attention/backends) compute the same function; `choose_backend` holds what was measured about
which of them is faster where.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from fibo_robot.attention.backends.sdpa import sdpa_attention
from fibo_robot.attention.checks import require_choice
from fibo_robot.attention.compiling import constant_result
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.operator import KERNEL_DEVICES, sparse_attention
from fibo_robot.attention.sparse.reference import reference_attention

MaskMode = Literal["drop", "zero_logit"]
Backend = Literal["reference", "sdpa", "numba", "triton"]
MASK_MODES: tuple[str, ...] = get_args(MaskMode)
BACKENDS: tuple[str, ...] = get_args(Backend)

BACKEND_VARIABLE = "FIBO_ATTENTION_BACKEND"
LARGEST_HEAD_DIM = 256
# Tokens. On one thread numba's kernels take, of the dense mask's time, 0.44 at 50 tokens, 0.35 at 65 and 0.23
# at 197 (inference), 0.63, 0.54 and 0.31 with the backward pass (benchmarks/attention/crossover.py, busy
# machine). The bound is fixed: a choice measured on each machine would differ between runs, and with it the
# rounding of a result.
SHORTEST_FOR_NUMBA = 48
# A training step of the divided ViT-B, with 197 tokens in space, takes 51 ms on an H100 with Triton's kernels
# and 56 with the dense mask, as CUDA graphs; called from Python on a slow host 86 and 77 (docs/attention.md).
SHORTEST_FOR_TRITON = 197
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_forced_backend: Backend | None = None


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
    query without any key (possible only without prefix tokens, in `drop` mode) gives zeros. A NaN in the
    input reaches every output that depends on it, and no other; except that the backend `sdpa` adds the mask
    to logits and multiplies all values by weights of 0: in `drop` mode, a NaN or infinity in k or v may reach
    any query there.

    Args:
        q, k, v: `(B, heads, N, head_dim)`, one dtype and device, head_dim up to 256; any strides. B may be 0.
        offsets: one sequence of offsets per head, each offset in [0, N - num_prefix_tokens).
        num_prefix_tokens: how many leading tokens are no patches.
        mask_mode: `drop`: a masked pair has no weight (its logit is -inf). `zero_logit`: its logit is 0
            before the softmax, so it keeps the weight e⁰ (what the 2024 training code computed).
        scale: factor on q·k; head_dim ** -0.5 when None.
        backend: one of :data:`BACKENDS`; None follows :func:`force_backend`, then the environment variable
            FIBO_ATTENTION_BACKEND, then :func:`choose_backend`. `numba` and `triton` are one operator with a
            kernel per device; naming one checks that the tensors are where it runs.

    Returns:
        `(B, heads, N, head_dim)` in the dtype of `q`.

    Raises:
        AttentionError: naming the argument that is wrong.
    """
    _check_tensors(q, k, v)
    head_sets = _check_offsets(offsets, q.shape[1], q.shape[2], num_prefix_tokens)
    require_choice("mask_mode", mask_mode, MASK_MODES)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    name = _resolve_backend(backend, q)
    if name in KERNEL_DEVICES:
        _check_kernel(name, q)
    function = {"reference": reference_attention, "sdpa": sdpa_attention}.get(name, sparse_attention)
    return function(q, k, v, head_sets, num_prefix_tokens=num_prefix_tokens, mask_mode=mask_mode, scale=scale)


def choose_backend(device: torch.device, num_tokens: int, dtype: torch.dtype) -> Backend:
    """The backend measured fastest for this device, sequence length and dtype.

    On a CPU, numba wins from SHORTEST_FOR_NUMBA tokens on, on CUDA Triton from SHORTEST_FOR_TRITON on, by the
    device's time; nothing shorter was measured there. Any other device computes the dense mask through
    PyTorch's kernels.
    """
    if device.type == "cpu" and num_tokens >= SHORTEST_FOR_NUMBA:
        return "numba"
    if device.type == "cuda" and num_tokens >= SHORTEST_FOR_TRITON and dtype != torch.float64:
        return "triton"
    return "sdpa"


@contextmanager
def force_backend(backend: Backend) -> Iterator[None]:
    """Inside this context, calls that name no backend use `backend`, in every thread of the process.

    With gradient checkpointing, keep it open over the backward pass: that computes the forward pass again,
    on CUDA in a thread of its own. For one call alone, name its `backend` instead.

    Raises:
        AttentionError: if there is no such backend.
    """
    global _forced_backend
    before, _forced_backend = _forced_backend, _check_backend(backend, "backend")
    try:
        yield
    finally:
        _forced_backend = before


def _resolve_backend(backend: str | None, q: Tensor) -> Backend:
    if backend is not None:
        return _check_backend(backend, "backend")
    if _forced_backend is not None:
        return _forced_backend
    from_environment = os.environ.get(BACKEND_VARIABLE)
    if from_environment:
        return _check_backend(from_environment, BACKEND_VARIABLE)
    return choose_backend(q.device, q.shape[-2], q.dtype)


def _check_backend(backend: str, source: str) -> Backend:
    require_choice(source, backend, BACKENDS)
    return cast(Backend, backend)


def _check_kernel(backend: str, q: Tensor) -> None:
    wanted = KERNEL_DEVICES[backend]
    if q.device.type != wanted:
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
    _, heads, tokens, head_dim = q.shape
    if heads == 0 or tokens == 0 or head_dim == 0:
        raise AttentionError(f"q's heads, tokens and channels must not be empty: {tuple(q.shape)}.")
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
    head_sets = _ascending(tuple(map(tuple, offsets)))
    num_patches = num_tokens - num_prefix_tokens
    for head, head_set in enumerate(head_sets):
        if head_set and (head_set[0] < 0 or head_set[-1] >= num_patches):
            outside = head_set[0] if head_set[0] < 0 else head_set[-1]
            raise AttentionError(
                f"offsets of head {head} must lie in [0, {num_patches}), the patch tokens of q, "
                f"but hold {outside}."
            )
    return head_sets


# Two functions: torch.compile takes the first's result as it is; into a cache it would trace, with a warning.
@constant_result
def _ascending(offsets: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    return _cached_ascending(offsets)


@lru_cache(maxsize=256)  # a model asks for the same few at every step
def _cached_ascending(offsets: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted(set(head_set))) for head_set in offsets)
