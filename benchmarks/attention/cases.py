"""What `fibo bench attention` calls: attentions alone on a projection's views, and whole modules."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fibo_robot.attention import AttentionModule, create_attention
from fibo_robot.attention.projection import split_projection
from fibo_robot.attention.wythoff import head_offsets

NUM_HEADS, HEAD_DIM = 12, 64  # ViT-B
WIDTH = NUM_HEADS * HEAD_DIM
DENSE, FLEX, BRANCH = "sdpa", "flex_attention", "castling_with_branch"


def build_modules(
    ops: Sequence[str],
    tokens: int,
    device: str,
    dtype: torch.dtype,
    training: bool,
    num_heads: int = NUM_HEADS,
) -> dict[str, AttentionModule]:
    """By name, with heads of 64; Castling with its branch only where training is timed."""
    names = {DENSE: "softmax", **{name: name for name in ops}}
    if training and "castling" in ops:
        names[BRANCH] = "castling"
    modules = {}
    for name, attention in names.items():
        module = create_attention(
            attention,
            num_heads * HEAD_DIM,
            num_heads,
            layer_index=0,
            num_prefix_tokens=1,
            grid=token_grid(tokens),
        )
        modules[name] = module.to(device, dtype).train(name == BRANCH)
    return modules


def cases_alone(
    modules: dict[str, AttentionModule],
    tokens: int,
    device: str,
    dtype: torch.dtype,
    batch: int,
    backward: bool,
) -> dict[str, Callable[[], object]]:
    """Calls of the cores on the views that a module makes of its projection, as it makes them."""
    functions: dict[str, Callable[..., Tensor]] = {name: module.core for name, module in modules.items()}
    functions[DENSE] = F.scaled_dot_product_attention
    heads = modules[DENSE].num_heads
    if device == "cuda":
        functions[FLEX] = flex_attention(tokens, head_offsets(tokens - 1, heads), device)
    qkv = _random(batch, tokens, 3, heads, HEAD_DIM, device=device, dtype=dtype).requires_grad_(backward)
    upstream = _random(batch, tokens, heads, HEAD_DIM, device=device, dtype=dtype).transpose(1, 2)

    def on_views(function: Callable[..., Tensor]) -> Tensor:
        return function(*split_projection(qkv))

    return {name: _call(partial(on_views, f), (qkv,), upstream, backward) for name, f in functions.items()}


def cases_whole(
    modules: dict[str, AttentionModule],
    tokens: int,
    device: str,
    dtype: torch.dtype,
    batch: int,
    backward: bool,
) -> dict[str, Callable[[], object]]:
    """Calls of the modules, projections included."""
    width = modules[DENSE].num_heads * HEAD_DIM
    x = _random(batch, tokens, width, device=device, dtype=dtype).requires_grad_(backward)
    upstream = _random(batch, tokens, width, device=device, dtype=dtype)
    return {
        name: _call(partial(module, x), (x, *module.parameters()), upstream, backward)
        for name, module in modules.items()
    }


def _random(*shape: int, device: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, device=device, dtype=dtype, generator=generator)


def _call(
    function: Callable[[], Tensor], inputs: tuple[Tensor, ...], upstream: Tensor, backward: bool
) -> Callable[[], object]:
    def forward() -> Tensor:
        with torch.no_grad():
            return function()

    def forward_backward() -> object:
        return torch.autograd.grad(function(), inputs, upstream, allow_unused=True)

    return forward_backward if backward else forward


def token_grid(tokens: int) -> tuple[int, int, int]:
    """Frames of 14 x 14 patches where the count (class token included) allows it, else one row of patches."""
    frames, rest = divmod(tokens - 1, 14 * 14)
    return (1, 1, tokens - 1) if rest else (frames, 14, 14)


def flex_attention(tokens: int, offsets: Sequence[Sequence[int]], device: str) -> Callable[..., Tensor]:
    """FlexAttention with Fibottention's mask and one prefix token: what a block-sparse kernel makes of it.

    On CUDA it is compiled, for this length alone: after a handful of lengths PyTorch would compile no more.
    """
    from torch.nn.attention import flex_attention as flex

    on = torch.zeros(len(offsets), tokens, dtype=torch.bool, device=device)
    for head, head_set in enumerate(offsets):
        on[head, list(head_set)] = True

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query == 0) | (key == 0) | on[head, (query - key).abs()]

    blocks = flex.create_block_mask(mask, None, len(offsets), tokens, tokens, device=device)
    attend: Any = flex.flex_attention
    if device == "cuda":
        torch.compiler.reset()
        attend = torch.compile(attend, dynamic=False)
    return lambda q, k, v: attend(q, k, v, block_mask=blocks)
