"""Diagonal attention on CUDA: Triton kernels that walk the diagonals.

In Triton's interpreter (TRITON_INTERPRET=1) it also accepts CPU tensors. The kernels read q, k
and v where they lie, so the views that a module makes of one projection are not copied, and write results as
`(B, N, heads, D)`, which is how the next projection reads them. A call copies nothing to the device and waits
for nothing, so a CUDA graph can hold it, after a first call outside (tuning.py times launches then).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil
from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.backends.triton import kernels, kernels_backward
from fibo_robot.attention.backends.triton.layout import power_of_two, strided
from fibo_robot.attention.backends.triton.tuning import Launch, choose_launch
from fibo_robot.attention.operator import empty_packed, empty_tokens_first, unpacked

SPLITS = 32  # tiles whose parts of a prefix token are added at once

# The first is used where nothing can be timed. With 16 rows of 64 and 2 warps, a tile in float32 takes 16
# registers of a thread: on an H100 the fastest or within 2 % of it at 197, 785 and 3,137 tokens, forward and
# backward. Loads pipelined by the compiler (`num_stages`) cost time in every kernel.
LAUNCHES: dict[int, tuple[Launch, ...]] = {
    64: (Launch(16, 2), Launch(32, 4), Launch(64, 8), Launch(32, 8)),
    128: (Launch(16, 4), Launch(32, 8), Launch(32, 4), Launch(64, 16)),
    256: (Launch(16, 8), Launch(32, 16), Launch(16, 4), Launch(32, 8)),
}


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
    """Attention, a view of `(B, N, heads, D)`, and log-sum-exp; as `numba.cpu.forward` otherwise."""
    problem = _Problem(q, offsets, starts, num_prefix_tokens, zero_logit, scale)
    with torch.cuda.device_of(q):
        out = empty_tokens_first(q)
        lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        total_v = v.sum(dim=-2, dtype=torch.float32) if zero_logit else lse
        tensors = tuple(map(strided, (q, k, v, out)))

        def arguments(tiles: int) -> tuple[Any, ...]:
            return *tensors, total_v, *problem.diagonals, lse, problem.parts(tiles, problem.head_dim + 2)

        tiles, (*_, parts) = problem.walk(kernels.forward_kernel, arguments)
        problem.gather(kernels.forward_prefix_kernel, (*tensors, lse, parts), tiles)
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
) -> Tensor:
    """Gradients of q, k and v as one `(B, N, 3, heads, D)`; arguments as in `numba.cpu.backward`."""
    problem = _Problem(q, offsets, starts, num_prefix_tokens, zero_logit, scale)
    with torch.cuda.device_of(q):
        packed = empty_packed(q)
        into_q, into_k, into_v = map(strided, unpacked(packed))
        lse = lse.contiguous()
        delta, masked = torch.empty_like(lse), torch.empty_like(lse) if zero_logit else lse
        tensors = (*map(strided, (q, k, v, out, grad)), lse)

        def of_queries(tiles: int) -> tuple[Any, ...]:
            masked_grad = (
                lse.new_empty(q.shape[0] * q.shape[1], tiles, problem.head_dim) if zero_logit else lse
            )
            parts = problem.parts(tiles, 2 * problem.head_dim)
            return *tensors, *problem.diagonals, into_q, delta, masked, parts, masked_grad

        tiles_of_queries, (*_, part_kv, masked_grad) = problem.walk(
            kernels_backward.backward_queries_kernel, of_queries
        )
        if zero_logit:
            masked_grad = masked_grad.sum(dim=1)

        def of_keys(tiles: int) -> tuple[Any, ...]:
            rest = into_k, into_v, problem.parts(tiles, problem.head_dim)
            return *tensors, delta, masked, masked_grad, *problem.diagonals, *rest

        tiles_of_keys, (*_, part_q) = problem.walk(kernels_backward.backward_keys_kernel, of_keys)
        given = (*tensors, into_q, into_k, into_v, part_q, part_kv)
        problem.gather(kernels_backward.backward_prefix_kernel, given, tiles_of_queries, tiles_of_keys)
    return packed


class _Problem:
    """What all kernels of a call are told."""

    def __init__(
        self,
        q: Tensor,
        offsets: Sequence[int],
        starts: Sequence[int],
        prefix: int,
        zero_logit: bool,
        scale: float,
    ) -> None:
        self.batch, self.heads, self.tokens, self.head_dim = q.shape
        self.device, self.dtype = q.device, q.dtype
        self.prefix, self.zero_logit, self.scale = prefix, zero_logit, scale
        self.diagonals = _diagonals(tuple(offsets), tuple(starts), q.device)
        self.block_d = power_of_two(self.head_dim)

    def walk(self, kernel: Any, arguments: Callable[[int], tuple[Any, ...]]) -> tuple[int, tuple[Any, ...]]:
        """Launch a kernel with a program per tile and head.

        Args:
            kernel: of kernels.py or kernels_backward.py; Triton's types know no grid.
            arguments: its arguments up to the sizes, for a number of tiles.

        Returns:
            The number of tiles and the arguments.
        """
        patches = self.tokens - self.prefix

        def run(launch: Launch) -> tuple[int, tuple[Any, ...]]:
            block = min(launch.block, power_of_two(patches))
            tiles = ceil(patches / block)
            given = arguments(tiles)
            if tiles:
                kernel[(tiles * self.batch * self.heads,)](
                    *given, self.heads, self.tokens, self.prefix, self.scale,
                    ZERO_LOGIT=self.zero_logit, D=self.head_dim, BLOCK_D=self.block_d, BLOCK=block,
                    num_warps=launch.num_warps,
                )  # fmt: skip
            return tiles, given

        launches = LAUNCHES[max(64, self.block_d)]
        if self.device.type != "cuda" or patches == 0:
            return run(launches[0])
        # Lengths within a factor of two are one kind of shape, and so are numbers of heads in the batch.
        sizes = patches.bit_length(), (self.batch * self.heads).bit_length(), self.prefix > 0
        key = (kernel.__name__, self.device, self.dtype, self.head_dim, self.zero_logit, *sizes)
        return run(choose_launch(key, launches, run))

    def gather(self, kernel: Any, given: tuple[Any, ...], *tiles: int) -> None:
        """Launch a kernel with a program per prefix token and head."""
        if self.prefix:
            kernel[(self.prefix * self.batch * self.heads,)](
                *given, self.heads, self.tokens, self.prefix, *tiles, self.scale,
                D=self.head_dim, BLOCK_D=self.block_d, SPLITS=SPLITS,
            )  # fmt: skip

    def parts(self, tiles: int, width: int) -> Tensor:
        """Room for `width` numbers of every tile about every prefix token; one allocation, they take time."""
        count = self.batch * self.heads * max(self.prefix, 1) * max(tiles, 1)
        return torch.empty(count * width, dtype=torch.float32, device=self.device)


@lru_cache(maxsize=256)
def _diagonals(
    offsets: tuple[int, ...], starts: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Offsets and starts on the device; copied there once, because every such copy waits for the device."""
    # Triton takes no empty tensor: a head set may be empty, the list need not be.
    flat = torch.tensor(offsets or (0,), dtype=torch.int32, device=device)
    return flat, torch.tensor(starts, dtype=torch.int32, device=device)
