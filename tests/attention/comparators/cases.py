"""Small comparators and inputs for their tests."""

import math
from typing import Any

import torch

from fibo_robot.attention import create_attention
from fibo_robot.attention.comparators import COMPARATORS

NAMES = [module.name for module in COMPARATORS]
HEADS, HEAD_DIM = 3, 4
# Small enough that windows and blocks end within the sequence, and their last block is not full.
SMALL = {
    "window": {"window": 6},
    "bigbird": {"block_size": 3, "random_blocks": 2, "global_blocks": 1},
    "linformer": {"projected_tokens": 5},
}


def placed(name, prefix=1, grid=(1, 5, 4), layer=0, **options) -> Any:
    options = {"name": name, **SMALL.get(name, {}), **options}
    arguments: dict[str, Any] = {"layer_index": layer, "num_prefix_tokens": prefix, "grid": grid}
    return create_attention(options, HEADS * HEAD_DIM, HEADS, **arguments).double()


def tokens_of(core):
    return core.num_prefix_tokens + math.prod(core.grid)


def random_qkv(core, batch=2):
    shape = (batch, HEADS, tokens_of(core), HEAD_DIM)
    return tuple(torch.randn(shape, dtype=torch.float64) for _ in range(3))
