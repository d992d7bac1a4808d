"""How tensors are handed to the Triton kernels, and these launched."""

from typing import Any

from torch import Tensor


def strided(tensor: Tensor) -> tuple[Tensor, int, int, int]:
    """A tensor as the kernels take it (kernels.py); copied only where its columns are apart."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        tensor = tensor.contiguous()
    batch, heads, tokens, _ = tensor.stride()
    return tensor, batch, heads, tokens


def power_of_two(size: int) -> int:
    """The smallest from 16 on that is no smaller."""
    return max(16, 1 << (size - 1).bit_length())


def kind_of(q: Tensor) -> tuple[int, int]:
    """What a launch depends on: the size of a number in bytes, and head_dim padded to 64 or more."""
    return q.element_size(), max(64, power_of_two(q.shape[-1]))


def launch_by_tiles(kernel: Any, block: int, q: Tensor, given: tuple[Any, ...], **options: int) -> None:
    """Launch a kernel with a program per head and tile of `block` tokens, with its sizes and its options."""
    batch, heads, tokens, head_dim = q.shape
    kernel[(-(-tokens // block) * batch * heads,)](
        *given, D=head_dim, BLOCK_D=power_of_two(head_dim), BLOCK=block, **options
    )
