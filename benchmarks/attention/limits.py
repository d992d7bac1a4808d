"""How fast this machine could be: the time below which no attention of so many bytes and pairs can come.

Two limits, each measured beside the attentions, by the same threads and in the same rounds. An attention has
to read q, k and v and to write its output once: an operator of PyTorch that does that and nothing else says
how long it takes. And it has to multiply: a matrix product of a comfortable size says how fast that goes. The
longer of both times is a floor (the roofline model, Williams et al., doi 10.1145/1498765.1498785).
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

STREAM, PRODUCT = "stream", "product"
PRODUCT_SIDE = {"cpu": 768, "cuda": 4096}  # of square matrices: large enough that BLAS is at its best

# Numbers of q's size that are read and written, in multiples of q, k, v and out: backward reads q, k, v, out
# and out's gradient, and writes three gradients.
STREAMS = {"forward": 1, "forward_backward": 3}
# Products of a pair's two vectors: q·k and p·v; backward q·k again, grad·v, and one for each gradient.
PRODUCTS = {"forward": 2, "forward_backward": 7}
# Linear attention has no pairs: k̂ᵀV and q̂ times it; backward two for each of these.
LINEAR_PRODUCTS = {"forward": 2, "forward_backward": 6}


def limit_cases(
    tokens: int, heads: int, head_dim: int, batch: int, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], object]]:
    """Calls to time: STREAM reads q, k and v as strided views and writes an output; PRODUCT multiplies."""
    qkv = torch.ones(batch, tokens, 3, heads, head_dim, device=device, dtype=dtype)
    q, k, v = qkv.unbind(2)
    out = torch.empty(batch, tokens, heads, head_dim, device=device, dtype=dtype)
    side = PRODUCT_SIDE[device]
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    into = torch.empty_like(matrix)
    return {
        STREAM: lambda: torch.addcmul(q, k, v, out=out),
        PRODUCT: lambda: torch.mm(matrix, matrix, out=into),
    }


def multiply_adds(
    direction: str, tokens: int, heads: int, head_dim: int, batch: int, pairs: float, linear: bool
) -> float:
    """Of one call: `pairs` per query through softmax, and through linear attention where there is any."""
    products = PRODUCTS[direction] * pairs + (LINEAR_PRODUCTS[direction] * head_dim if linear else 0)
    return batch * heads * tokens * head_dim * products


def floor_seconds(direction: str, work: float, seconds: Mapping[str, Sequence[float]], device: str) -> float:
    """The longer of the time to stream what must be moved and of the time to multiply.

    Args:
        direction: a key of :data:`STREAMS`.
        work: from :func:`multiply_adds`.
        seconds: per call, of :func:`limit_cases`.
        device: where they ran.
    """
    per_product = median(seconds[PRODUCT]) / PRODUCT_SIDE[device] ** 3
    return max(STREAMS[direction] * median(seconds[STREAM]), work * per_product)
