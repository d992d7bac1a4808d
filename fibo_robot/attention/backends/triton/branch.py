"""Castling's training branch on CUDA: one kernel forward, two backward, and two that find its thresholds.

A call copies nothing to the device and waits for nothing, so a CUDA graph can hold it. q, k and v are read
where they lie. Correct in Triton's interpreter (TRITON_INTERPRET=1), where it also accepts CPU tensors.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.backends.triton import branch_kernels as kernels
from fibo_robot.attention.backends.triton.layout import kind_of, launch_by_tiles, power_of_two, strided
from fibo_robot.attention.operator import empty_tokens_first


@dataclass(frozen=True)
class Tiles:
    """How a kernel is launched.

    Attributes:
        block: rows that a program owns, a power of two.
        others: rows of the other kind that it meets at a time, a power of two.
        num_warps: of 32 threads per program.
        num_stages: tiles of the other kind whose loads are in flight at once.
    """

    block: int
    others: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Launches:
    """How the three kernels are launched for a type and a padded head_dim."""

    forward: Tiles
    queries: Tiles
    keys: Tiles


# By size of a number in bytes and padded head_dim. In half precision up to 64, the fastest of five or six on
# an H100 at 197, 785 and 3,137 tokens; the others were not timed. None takes more than 97 KiB of shared
# memory, and on an H100 all numbers stay in registers, but for a few in float32 with a head_dim above 64.
LAUNCHES = {
    (2, 64): Launches(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 3), Tiles(64, 32, 4, 3)),
    (2, 128): Launches(Tiles(128, 64, 8, 2), Tiles(64, 64, 4, 2), Tiles(64, 64, 8, 2)),
    (4, 64): Launches(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(64, 32, 8, 2)),
    (4, 128): Launches(Tiles(32, 16, 4, 1), Tiles(32, 32, 8, 1), Tiles(32, 16, 8, 1)),
}


def is_available(q: Tensor) -> bool:
    """Whether the kernels take such queries."""
    return kind_of(q) in LAUNCHES


def strongest_softmax(
    q: Tensor, k: Tensor, v: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch, each query's share of mass that passed, and its log-sum-exp.

    Args:
        q, k, v: `(B, heads, N, head_dim)`.
        cutoffs: `(heads,)`, float32: weights above them pass.
        scale: factor on q·k, above 0.

    Returns:
        `(B, heads, N, head_dim)` in q's dtype, and twice `(B, heads, N)` in float32.
    """
    with torch.cuda.device_of(q):
        out = empty_tokens_first(v)
        passed, lse = (torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device) for _ in range(2))
        given = (*map(strided, (q, k, v, out)), cutoffs, lse, passed)
        _launch(kernels.forward_kernel, LAUNCHES[kind_of(q)].forward, q, scale, *given)
    return out, passed, lse


def strongest_softmax_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cutoffs: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, contiguous; arguments as in :func:`strongest_softmax` and from it."""
    launches = LAUNCHES[kind_of(q)]
    with torch.cuda.device_of(q):
        into_q, into_k, into_v = grads = empty_tokens_first(q), empty_tokens_first(k), empty_tokens_first(v)
        lse = lse.contiguous()
        delta = torch.empty_like(lse)
        given = tuple(map(strided, (grad, q, k, v)))
        of_queries = (*given, strided(out), lse, cutoffs, strided(into_q), delta)
        _launch(kernels.backward_queries_kernel, launches.queries, q, scale, *of_queries)
        of_keys = (*given, lse, delta, cutoffs, strided(into_k), strided(into_v))
        _launch(kernels.backward_keys_kernel, launches.keys, q, scale, *of_keys)
    return grads


def last_of_mass(q: Tensor, k: Tensor, mass: float, scale: float, examples: int, queries: int) -> Tensor:
    """The last of each head's strongest weights that together carry the share `mass`: `(heads,)`, float32.

    Args:
        q, k: `(B, heads, N, head_dim)`.
        mass: in (0, 1].
        scale: factor on q·k, above 0.
        examples: how many count, evenly from the batch; `queries` of each, evenly from its sequence.
    """
    batch, heads, tokens, head_dim = q.shape
    with torch.cuda.device_of(q):
        weights = torch.empty((heads, examples, queries, tokens), dtype=torch.float32, device=q.device)
        found = torch.empty(heads, dtype=torch.float32, device=q.device)
        sample: Any = kernels.sampled_weights_kernel
        sample[(heads * examples,)](
            strided(q), strided(k), weights, batch, heads, tokens, queries, examples, scale,
            D=head_dim, BLOCK_D=power_of_two(head_dim), BLOCK=power_of_two(queries), OTHERS=64,
            num_warps=4, num_stages=3 if q.element_size() == 2 else 1,
        )  # fmt: skip
        find: Any = kernels.threshold_kernel
        find[(heads,)](weights, found, examples * queries * tokens, mass, BLOCK=4096, num_warps=32)
    return found


def _launch(kernel: Any, tiles: Tiles, q: Tensor, scale: float, *given: Any) -> None:
    _, heads, tokens, _ = q.shape
    options = {"OTHERS": tiles.others, "num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    launch_by_tiles(kernel, tiles.block, q, (*given, heads, tokens, scale), **options)
