"""Diagonal attention on CUDA: Triton kernels that walk the diagonals. Not yet measured on a GPU.

Correct in Triton's interpreter (TRITON_INTERPRET=1), where it also accepts CPU tensors. The kernels
(triton_kernels.py) handle the pairs among patches; prefix queries, of which there are one to five, attend to
everything and are computed by matrix products here.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.backends import triton_kernels

forward_kernel: Any = triton_kernels.forward_kernel  # Triton's types know no grid and no Python constants
backward_kernel: Any = triton_kernels.backward_kernel

BLOCK = 32  # tokens per program: the backward pass keeps seven such tiles in registers


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Sequence[int],
    starts: Sequence[int],
    num_prefix_tokens: int,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp; arguments and results as in `numba_cpu.forward`."""
    batch, heads, tokens, head_dim = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    total_v = v.sum(dim=-2, dtype=torch.float32) if zero_logit else out
    diagonals = _diagonals(tuple(offsets), tuple(starts), q.device)
    patches = tokens - num_prefix_tokens
    if patches:
        forward_kernel[(_blocks(patches), batch * heads)](
            q, k, v, total_v, *diagonals, out, lse,
            heads, tokens, num_prefix_tokens, scale,
            ZERO_LOGIT=zero_logit, D=head_dim, BLOCK_D=_power_of_two(head_dim), BLOCK=BLOCK,
        )  # fmt: skip
    prefix = slice(num_prefix_tokens)
    logits = (q[:, :, prefix].float() @ k.float().transpose(-2, -1)) * scale
    out[:, :, prefix] = (logits.softmax(dim=-1) @ v.float()).to(out.dtype)
    lse[:, :, prefix] = logits.logsumexp(dim=-1)
    return out, lse


def backward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; arguments and results as in `numba_cpu.backward`."""
    batch, heads, tokens, head_dim = q.shape
    given = q.dtype
    grad, q, k, v = (tensor.contiguous() for tensor in (grad, q, k, v))
    delta = (grad.float() * out.float()).sum(dim=-1)
    diagonals = _diagonals(tuple(offsets), tuple(starts), q.device)
    masked = torch.zeros_like(lse)
    if zero_logit:
        blind = _has_masked_keys(tuple(offsets), tuple(starts), tokens, num_prefix_tokens, q.device)
        masked = torch.where(blind, (-lse).exp(), 0)
    grad_q, grad_k, grad_v = (torch.zeros(q.shape, dtype=torch.float32, device=q.device) for _ in range(3))
    pairs = torch.zeros(2, batch, heads, num_prefix_tokens, tokens, device=q.device)
    if tokens > num_prefix_tokens:
        backward_kernel[(_blocks(tokens - num_prefix_tokens), batch * heads)](
            q, k, v, grad, lse, delta, masked, *diagonals, grad_q, grad_k, grad_v,
            pairs[0], pairs[1], heads, tokens, num_prefix_tokens, scale,
            ZERO_LOGIT=zero_logit, D=head_dim, BLOCK_D=_power_of_two(head_dim), BLOCK=BLOCK,
        )  # fmt: skip
    q, k, v, grad = q.float(), k.float(), v.float(), grad.float()
    if zero_logit:
        grad_v += masked[:, :, None] @ grad
    if num_prefix_tokens:
        prefix = slice(num_prefix_tokens)
        # What patch queries send to prefix keys; the kernel left zeros at the prefix queries' own places.
        grad_v[:, :, prefix] += pairs[0] @ grad
        grad_k[:, :, prefix] += pairs[1] @ q
        # What prefix queries send to all keys.
        weights = ((q[:, :, prefix] @ k.transpose(-2, -1)) * scale - lse[:, :, prefix, None]).exp()
        d_logits = weights * (grad[:, :, prefix] @ v.transpose(-2, -1) - delta[:, :, prefix, None]) * scale
        grad_q[:, :, prefix] = d_logits @ k
        grad_k += d_logits.transpose(-2, -1) @ q[:, :, prefix]
        grad_v += weights.transpose(-2, -1) @ grad[:, :, prefix]
    return grad_q.to(given), grad_k.to(given), grad_v.to(given)


def _blocks(patches: int) -> int:
    return -(-patches // BLOCK)


def _power_of_two(head_dim: int) -> int:
    return max(16, 1 << (head_dim - 1).bit_length())


@lru_cache(maxsize=256)
def _diagonals(
    offsets: tuple[int, ...], starts: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Offsets and starts on the device; copied there once, because every such copy waits for the device."""
    # Triton takes no empty tensor: a head set may be empty, the list need not be.
    flat = torch.tensor(offsets or (0,), dtype=torch.int32, device=device)
    return flat, torch.tensor(starts, dtype=torch.int32, device=device)


@lru_cache(maxsize=64)
def _has_masked_keys(
    offsets: tuple[int, ...], starts: tuple[int, ...], tokens: int, prefix: int, device: torch.device
) -> Tensor:
    """`(heads, N)`: which queries have a token that they do not see; prefix queries have none."""
    at = torch.arange(tokens)
    rows = []
    for start, end in pairwise(starts):
        seen = torch.full((tokens,), prefix)
        for offset in offsets[start:end]:
            seen += (at - offset >= prefix).long() + ((offset > 0) & (at + offset < tokens)).long()
        rows.append((seen < tokens) & (at >= prefix))
    return torch.stack(rows).to(device)
