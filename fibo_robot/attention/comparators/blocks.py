"""Window attention (Longformer) and BigBird: softmax over blocks of keys, exact, without an N x N matrix."""

import random
from dataclasses import dataclass
from functools import lru_cache
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention.checks import require_count
from fibo_robot.attention.compiling import constant_result
from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule


@dataclass(frozen=True)
class WindowOptions:
    """Options of window attention.

    Attributes:
        window: neighbours of a patch that it attends to, half of them on each side.
    """

    window: int = 64

    def __post_init__(self) -> None:
        require_count("window", self.window, 2)
        if self.window % 2:
            raise AttentionError(f"window must be even, half of it on each side, not {self.window}.")


@dataclass(frozen=True)
class BigBirdOptions:
    """Options of BigBird.

    Attributes:
        block_size: tokens per block.
        random_blocks: key blocks drawn for each query block and head, beyond its three neighbouring ones.
        global_blocks: leading patch blocks that, like the prefix tokens, see and are seen by everything.
    """

    block_size: int = 16
    random_blocks: int = 2
    global_blocks: int = 1

    def __post_init__(self) -> None:
        require_count("block_size", self.block_size, 1)
        require_count("random_blocks", self.random_blocks, 0)
        require_count("global_blocks", self.global_blocks, 0)


class WindowCore(AttentionCore):
    """Sliding-window softmax attention with global prefix tokens.

    Longformer (arXiv 2004.05150), section 3.1, "sliding window" and "global attention": patches j and k meet
    when |j - k| <= window / 2 in token order; prefix tokens see and are seen by everything. O(N·window·d).
    It differs from the paper in that global tokens have no projections of their own.
    """

    options_type = WindowOptions
    options: WindowOptions

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        _, num_prefix_tokens = self._placement()
        num_patches = self._num_patches(q.shape[-2])
        reach = self.options.window // 2
        blocks = neighbouring_blocks(-(-num_patches // reach)).expand(self.num_heads, -1, -1)
        return block_attention(
            q, k, v, blocks, block_size=reach, num_global_tokens=num_prefix_tokens, reach=reach, scale=scale
        )


class BigBirdCore(AttentionCore):
    """Softmax attention over global tokens, neighbouring blocks and random blocks.

    BigBird (arXiv 2007.14062), section 2: a block of queries attends to itself and its two neighbours, to
    random blocks of its head, and to the global tokens. The random blocks are drawn once, seeded by the
    layer, and are the same in training and evaluation. O(N·block_size·(3 + random_blocks)·d). It differs from
    the paper in that windows do not wrap around the ends of the sequence.
    """

    options_type = BigBirdOptions
    options: BigBirdOptions

    def key_blocks(self, num_tokens: int) -> tuple[Tensor, int]:
        """Which blocks of non-global keys each block of queries attends to.

        Args:
            num_tokens: length N of the sequence, prefix tokens included.

        Returns:
            `(heads, num_blocks, 3 + random_blocks)` block indices, -1 where there is none, and the number of
            global tokens, which lead the sequence and belong to no block.
        """
        layer_index, num_prefix_tokens = self._placement()
        self._num_patches(num_tokens)
        options = self.options
        num_global = min(num_prefix_tokens + options.global_blocks * options.block_size, num_tokens)
        # A compiled graph is of one number of blocks.
        num_blocks = index(-(-(num_tokens - num_global) // options.block_size))
        drawn = _random_blocks(num_blocks, self.num_heads, options.random_blocks, layer_index)
        near = neighbouring_blocks(num_blocks).expand(self.num_heads, -1, -1)
        return torch.cat([near, drawn], dim=-1), num_global

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        blocks, num_global = self.key_blocks(q.shape[-2])
        return block_attention(
            q,
            k,
            v,
            blocks,
            block_size=self.options.block_size,
            num_global_tokens=num_global,
            reach=None,
            scale=scale,
        )


class WindowAttention(AttentionModule):
    """Longformer's sliding window (arXiv 2004.05150); options: `WindowOptions`."""

    name = "window"
    core_type = WindowCore


class BigBird(AttentionModule):
    """Window, global and random blocks (arXiv 2007.14062); options: `BigBirdOptions`."""

    name = "bigbird"
    core_type = BigBirdCore


def neighbouring_blocks(num_blocks: int) -> Tensor:
    """Each block, the one before it and the one after it: `(1, num_blocks, 3)`, -1 beyond the ends."""
    near = torch.arange(num_blocks)[None, :, None] + torch.tensor([-1, 0, 1])
    return near.masked_fill(near >= num_blocks, -1)


def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block_size: int,
    num_global_tokens: int,
    reach: int | None,
    scale: float | None,
) -> Tensor:
    """Softmax attention in which each block of queries sees the global tokens and a few blocks of keys.

    Args:
        q, k, v: `(B, heads, N, head_dim)`; the global tokens lead, and see and are seen by everything.
        blocks: `(heads, num_blocks, c)` indices of key blocks per query block, -1 where there is none. The
            tokens after the global ones form the blocks; the last one may be shorter.
        block_size: tokens per block.
        num_global_tokens: how many leading tokens are global.
        reach: largest distance between a query and a key of a block; None lets whole blocks meet.
        scale: factor on q·k; head_dim ** -0.5 when None.

    Returns:
        `(B, heads, N, head_dim)`.
    """
    batch, heads, num_tokens, head_dim = q.shape
    num_local = num_tokens - num_global_tokens
    everywhere = F.scaled_dot_product_attention(q[:, :, :num_global_tokens], k, v, scale=scale)
    if num_local == 0:
        return everywhere
    num_blocks = blocks.shape[1]
    blocks = blocks.to(q.device)
    # Blocks of all heads stand in one axis, so that one fused call computes them all.
    of_head = num_blocks * torch.arange(heads, device=q.device)[:, None, None]
    chosen = (blocks.clamp_min(0) + of_head).flatten()

    def in_blocks(tensor: Tensor) -> Tensor:
        padding = num_blocks * block_size - num_local
        local = F.pad(tensor[:, :, num_global_tokens:], (0, 0, 0, padding))
        return local.reshape(batch, heads * num_blocks, block_size, head_dim)

    def seen(tensor: Tensor) -> Tensor:
        shared = tensor[:, :, None, :num_global_tokens].expand(-1, -1, num_blocks, -1, -1).flatten(1, 2)
        local = in_blocks(tensor).index_select(1, chosen)
        local = local.reshape(batch, heads * num_blocks, blocks.shape[2] * block_size, head_dim)
        return torch.cat([shared, local], dim=2)

    within = torch.arange(block_size, device=q.device)
    key_at = (blocks[..., None] * block_size + within).flatten(2)[:, :, None]
    mask = (blocks >= 0).repeat_interleave(block_size, dim=-1)[:, :, None] & (key_at < num_local)
    if reach is not None:
        query_at = (torch.arange(num_blocks, device=q.device)[:, None] * block_size + within)[
            None, :, :, None
        ]
        # Padding queries see all keys: a row without any would bring NaN into the gradient.
        mask = (mask & ((query_at - key_at).abs() <= reach)) | (query_at >= num_local)
    mask = F.pad(mask, (num_global_tokens, 0), value=True).flatten(0, 1)[None]
    local = F.scaled_dot_product_attention(in_blocks(q), seen(k), seen(v), attn_mask=mask, scale=scale)
    local = local.reshape(batch, heads, num_blocks * block_size, head_dim)[:, :, :num_local]
    return torch.cat([everywhere, local], dim=2)


@constant_result
def _random_blocks(num_blocks: int, num_heads: int, count: int, layer_index: int) -> Tensor:
    """`(heads, num_blocks, count)` blocks that do not touch the query's, -1 where there are too few.

    A constant of the compiled graph: Python's random module is not traced.
    """
    drawn = _draw_blocks(num_blocks, num_heads, count, layer_index)
    return torch.tensor(drawn, dtype=torch.long).reshape(num_heads, num_blocks, count)


# A few sequence lengths times the layers of a model. What is kept is no tensor: one that was made while a
# model is exported is none of numbers, and all later calls would get it.
@lru_cache(maxsize=256)
def _draw_blocks(num_blocks: int, num_heads: int, count: int, layer_index: int) -> list[int]:
    generator = random.Random(layer_index)
    drawn = []
    for _ in range(num_heads):
        for block in range(num_blocks):
            near = range(max(block - 1, 0), min(block + 2, num_blocks))
            far = num_blocks - len(near)
            picks = generator.sample(range(far), min(count, far))
            drawn += [pick if pick < near.start else pick + len(near) for pick in picks]
            drawn += [-1] * (count - len(picks))
    return drawn
