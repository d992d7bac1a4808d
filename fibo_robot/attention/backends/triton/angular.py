"""Castling's linear-angular attention on CUDA: two kernels forward, two backward, and sums of their parts.

A call copies nothing to the device and waits for nothing, so a CUDA graph can hold it. q, k and v are read
where they lie. In Triton's interpreter (TRITON_INTERPRET=1) it also accepts CPU tensors.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fibo_robot.attention.backends.triton import angular_kernels as kernels
from fibo_robot.attention.backends.triton.layout import kind_of, launch_by_tiles, power_of_two, strided
from fibo_robot.attention.operator import empty_packed, empty_tokens_first, unpacked

PROGRAMS = 512  # that a state is summed by, about four for each multiprocessor of an H100


@dataclass(frozen=True)
class Tiles:
    """How a kernel is launched.

    Attributes:
        block: tokens of a tile, a power of two.
        num_warps: of 32 threads per program.
        num_stages: tiles whose loads are in flight at once, in kernels that walk over several.
    """

    block: int
    num_warps: int
    num_stages: int = 1


@dataclass(frozen=True)
class Launches:
    """How the four kernels are launched for a type and a padded head_dim."""

    state: Tiles
    forward: Tiles
    queries: Tiles
    keys: Tiles


# By size of a number in bytes and padded head_dim. None takes more than 97 KiB of shared memory, and on an
# H100 all numbers stay in registers, but for up to 14 of a thread in float16 by Triton 3.6. In float32 a
# head_dim above 64 would take 320 KiB, more than it has.
LAUNCHES = {
    (2, 64): Launches(Tiles(64, 4, 2), Tiles(64, 4), Tiles(64, 4, 2), Tiles(64, 4)),
    (2, 128): Launches(Tiles(64, 8), Tiles(64, 8), Tiles(64, 8), Tiles(64, 8)),
    (4, 64): Launches(Tiles(64, 8), Tiles(64, 8), Tiles(32, 8), Tiles(64, 8)),
}


@dataclass(frozen=True)
class Forward:
    """What the forward pass returns; see `castling_training`.

    Attributes:
        out: `(B, heads, N, D)`.
        direction: y / ‖y‖ in float32, empty without taps, where `out` is that.
        inverse: 1 / ‖y‖, `(B, heads, N)` in float32.
        state: k̂ᵀV/π, `(B, heads, D, D)` in float32.
    """

    out: Tensor
    direction: Tensor
    inverse: Tensor
    state: Tensor


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branch: Tensor | None,
    branch_scale: Tensor | None,
    taps: Tensor,
    const_term: str,
    *,
    training: bool,
) -> Forward:
    """The normalised output, and in training what the backward pass needs.

    Args:
        q, k, v: `(B, heads, N, D)`.
        branch: added to y, times `branch_scale`, a scalar on the device; None adds nothing.
        taps: `(heads, T)`, T odd or 0.
        const_term: `own`, `sum` or `mean`.
        training: keep what the backward pass needs; without it, `direction` and `inverse` are empty.
    """
    with torch.cuda.device_of(q):
        launches = LAUNCHES[kind_of(q)]
        state = _summed(kernels.state_kernel, launches.state, q, (strided(k), strided(v)))
        taps = taps.detach().contiguous()
        out, wide = empty_tokens_first(q), {"dtype": torch.float32, "device": q.device}
        inverse = torch.empty(q.shape[:-1] if training else 0, **wide)
        keeps = training and taps.shape[1] > 0
        direction = empty_tokens_first(q, torch.float32) if keeps else torch.empty(0, **wide)
        own = const_term == "own"
        constant = state if own else v.sum(dim=-2, dtype=torch.float32)
        if const_term == "mean":
            constant = constant / q.shape[-2]
        tensors = strided(q), strided(v), strided(q if branch is None else branch)
        numbers = state if branch_scale is None else branch_scale, state, constant, _or(taps, state)
        into = strided(out), strided(direction if keeps else out), _or(inverse, state)
        switches = {"OWN": own, "BRANCH": branch is not None, "TRAINING": training}
        given = *tensors, *numbers, *into
        _by_tiles(kernels.forward_kernel, launches.forward, q, given, TAPS=taps.shape[1], **switches)
    return Forward(out, direction, inverse, state)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    direction: Tensor,
    inverse: Tensor,
    state: Tensor,
    taps: Tensor,
    const_term: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v as one `(B, N, 3, heads, D)`, of y, and of the taps.

    Arguments are as :func:`forward` took and returned them.
    """
    batch, heads, tokens, _ = q.shape
    with torch.cuda.device_of(q):
        taps = taps.detach().contiguous()
        packed, grad_y, count = empty_packed(q), empty_tokens_first(q), taps.shape[1]
        into_q, into_k, into_v = map(strided, unpacked(packed))
        given_grad, given_v, into_y = strided(grad), strided(v), strided(grad_y)
        launches = LAUNCHES[kind_of(q)]
        splits = _splits(q, launches.queries.block)
        tap_grads = torch.empty((batch, heads, splits, count), dtype=torch.float32, device=q.device)
        grad_state = _summed(
            kernels.backward_queries_kernel,
            launches.queries,
            q,
            (given_grad, strided(q), given_v, strided(direction), inverse, state, into_q, into_y),
            (_or(tap_grads, inverse),),
            TAPS=count,
            SOME=power_of_two(count),
        )
        own = const_term == "own"
        constant = grad_state
        if not own:
            constant = grad_y.sum(dim=-2, dtype=torch.float32) * (
                0.5 if const_term == "sum" else 0.5 / max(1, tokens)
            )
        given = (
            given_grad,
            strided(k),
            given_v,
            into_y,
            grad_state,
            constant,
            _or(taps, state),
            into_k,
            into_v,
        )
        _by_tiles(kernels.backward_keys_kernel, launches.keys, q, given, OWN=own, TAPS=count)
        return packed, grad_y, tap_grads.sum(dim=(0, 2)).to(taps.dtype)


def _splits(q: Tensor, block: int) -> int:
    """By how many programs a head's tokens are gone through, in tiles of `block`."""
    batch, heads, tokens, _ = q.shape
    return max(1, min(-(-tokens // block), PROGRAMS // max(1, batch * heads)))


def _summed(
    kernel: Any,
    tiles: Tiles,
    q: Tensor,
    given: tuple[Any, ...],
    more: tuple[Any, ...] = (),
    **options: Any,
) -> Tensor:
    """Launch a kernel whose programs each leave a `(D, D)`, after `given`; returns their sums per head."""
    batch, heads, tokens, head_dim = q.shape
    splits = _splits(q, tiles.block)
    shape = batch, heads, splits, head_dim, head_dim
    states = torch.empty(shape, dtype=torch.float32, device=q.device)
    kernel[(splits * batch * heads,)](
        *given, states, *more, heads, tokens, splits,
        D=head_dim, BLOCK_D=power_of_two(head_dim), BLOCK=tiles.block, **options,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return states.squeeze(2) if splits == 1 else states.sum(dim=2)


def _by_tiles(kernel: Any, tiles: Tiles, q: Tensor, given: tuple[Any, ...], **options: Any) -> None:
    _, heads, tokens, _ = q.shape
    options |= {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    launch_by_tiles(kernel, tiles.block, q, (*given, heads, tokens), **options)


def _or(tensor: Tensor, other: Tensor) -> Tensor:
    """Another tensor, which is not touched, in the place of an empty one: Triton takes none."""
    return tensor if tensor.numel() else other
