"""How tensors are handed to the Triton kernels."""

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
