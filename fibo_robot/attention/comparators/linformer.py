"""Linformer: keys and values are projected to a fixed number of tokens."""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention.checks import require_count
from fibo_robot.attention.cores import AttentionCore, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule


@dataclass(frozen=True)
class LinformerOptions:
    """Options of Linformer.

    Attributes:
        projected_tokens: k, how many tokens keys and values are projected to.
        share_key_value: one projection for keys and values.
    """

    projected_tokens: int = 64
    share_key_value: bool = False

    def __post_init__(self) -> None:
        require_count("projected_tokens", self.projected_tokens, 1)


class LinformerCore(AttentionCore):
    """softmax(q (E k)ᵀ · scale) (F v), with learned E and F of shape (k, N) that all heads of a layer share.

    Linformer (arXiv 2006.04768), equation 7, with the paper's "headwise" sharing, or its "key-value" sharing.
    O(N·k·d). Prefix tokens are projected like all others.

    The matrices fit one number of tokens, so they exist from the first :meth:`place` with a grid on
    (state-dict keys `key_projection` and `value_projection`); another number of tokens draws new ones.
    """

    options_type = LinformerOptions
    options: LinformerOptions
    like: Tensor  # tells device and dtype while there is no weight yet
    key_projection: nn.Parameter | None
    value_projection: nn.Parameter | None

    def __init__(self, num_heads: int, head_dim: int, options: LinformerOptions) -> None:
        super().__init__(num_heads, head_dim, options)
        self.register_parameter("key_projection", None)
        self.register_parameter("value_projection", None)
        self.register_buffer("like", torch.empty(0), persistent=False)

    def place(self, layer_index: int, num_prefix_tokens: int, grid: Grid | None = None) -> None:
        """As :meth:`AttentionCore.place`; a known grid makes the projections."""
        super().place(layer_index, num_prefix_tokens, grid)
        if grid is None:
            return
        num_tokens = prod(grid) + num_prefix_tokens
        if self.key_projection is None or self.key_projection.shape[1] != num_tokens:
            self.key_projection = self._draw(num_tokens)
            self.value_projection = None if self.options.share_key_value else self._draw(num_tokens)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        if self.grid is None or self.key_projection is None:
            raise AttentionError(
                "linformer needs the token grid, because its weights fit one number of tokens: call "
                "place_attention(model, image_size=(height, width)), or place(...) on the module."
            )
        self._num_patches(q.shape[-2])
        for_values = self.key_projection if self.value_projection is None else self.value_projection
        return F.scaled_dot_product_attention(q, self.key_projection @ k, for_values @ v, scale=scale)

    def _draw(self, num_tokens: int) -> nn.Parameter:
        # A projected token then has the variance of the tokens it is made of.
        drawn = torch.randn(
            self.options.projected_tokens, num_tokens, device=self.like.device, dtype=self.like.dtype
        )
        return nn.Parameter(drawn * num_tokens**-0.5)


class Linformer(AttentionModule):
    """Linformer (arXiv 2006.04768); options: `LinformerOptions`."""

    name = "linformer"
    core_type = LinformerCore
