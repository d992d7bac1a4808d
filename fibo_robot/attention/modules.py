"""Attention modules for timm's ViTs: timm's projections around a core.

Each class takes the constructor arguments that timm's `Block` passes to its `attn_layer`, and its `qkv` and
`proj` weights have timm's names and shapes, so pretrained ViT weights load. A module built by timm must be
placed before its first use (:func:`fibo_robot.attention.place_attention`): timm does not tell an attention
which layer it is in.
"""

from contextlib import nullcontext
from typing import ClassVar, cast

import torch
from timm.layers.attention import Attention as TimmAttention
from torch import Tensor, nn

from fibo_robot.attention.cores import AngularCore, AttentionCore, DiagonalCore, Grid, SoftmaxCore
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.projection import split_projection


class AttentionModule(nn.Module):
    """Multi-head attention `(B, N, C) -> (B, N, C)` around a core that subclasses name.

    Args:
        dim: C, the width of tokens.
        num_heads: heads; must divide `dim` where no `attn_head_dim` is given.
        attn_head_dim: width of a head; `dim / num_heads` when None.
        qkv_bias, qk_norm, scale_norm, proj_bias, proj_drop, norm_layer, device, dtype: as in timm.
        attn_drop: must be 0. Sparse and linear attention have no dropout of single weights, and the dense one
            refuses it too, so that a swap never changes what is regularised.
        options: the core's options dataclass; its defaults when None.
        layer_index, num_prefix_tokens, grid: where the module stands; :meth:`place` gives them later.

    Raises:
        AttentionError: naming the argument that does not fit.
    """

    core_type: ClassVar[type[AttentionCore]]
    name: ClassVar[str]

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: type[nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        attn_head_dim: int | None = None,
        options: object | None = None,
        layer_index: int | None = None,
        num_prefix_tokens: int = 1,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        if attn_head_dim is None and dim % num_heads:
            raise AttentionError(f"num_heads ({num_heads}) must divide dim ({dim}).")
        self.num_heads = num_heads
        self.head_dim = attn_head_dim or dim // num_heads
        self._check_attn_drop(attn_drop)
        inner = num_heads * self.head_dim

        def norm(wanted: bool, channels: int) -> nn.Module:
            if not wanted:
                return nn.Identity()
            if norm_layer is None:
                raise AttentionError("norm_layer must be given when qk_norm or scale_norm is on.")
            return norm_layer(channels, device=device, dtype=dtype)

        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias, device=device, dtype=dtype)
        self.q_norm = norm(qk_norm, self.head_dim)
        self.k_norm = norm(qk_norm, self.head_dim)
        self.attn_drop = nn.Dropout(attn_drop)
        with torch.device(device) if device is not None else nullcontext():
            core = self.core_type(num_heads, self.head_dim, options or self.core_type.options_type())
        self.core = core.to(dtype=dtype)
        self.norm = norm(scale_norm, inner)
        self.gate: nn.Module | None = None
        self.proj = nn.Linear(inner, dim, bias=proj_bias, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)
        if layer_index is not None:
            self.place(layer_index, num_prefix_tokens, grid)

    @classmethod
    def taking_over(
        cls, other: "TimmAttention | AttentionModule", options: object | None = None
    ) -> "AttentionModule":
        """A module of this class that shares every projection and norm of `other`.

        `other` is timm's Attention or an :class:`AttentionModule`; its weights are shared, not copied.
        """
        weight = cast(nn.Linear, other.qkv).weight
        heads, head_dim = other.num_heads, other.head_dim
        module = cls(weight.shape[1], heads, device="meta", attn_head_dim=head_dim, options=options)
        module._check_attn_drop(other.attn_drop.p)
        for name in ("qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"):
            setattr(module, name, getattr(other, name))
        core = cls.core_type(module.num_heads, module.head_dim, module.core.options)
        module.core = core.to(weight.device, weight.dtype)
        if isinstance(other, AttentionModule) and other.layer_index is not None:
            module.place(other.layer_index, other.num_prefix_tokens or 0, other.grid)
        return module.train(other.training)

    @property
    def options(self) -> object:
        """The core's options."""
        return self.core.options

    @property
    def layer_index(self) -> int | None:
        """0-based index of the layer; None until placed."""
        return self.core.layer_index

    @property
    def num_prefix_tokens(self) -> int | None:
        """Tokens before the first patch; None until placed."""
        return self.core.num_prefix_tokens

    @property
    def grid(self) -> Grid | None:
        """Patch tokens as (T, H, W), if known."""
        return self.core.grid

    def place(self, layer_index: int, num_prefix_tokens: int, grid: Grid | None = None) -> None:
        """Say which layer this is and how its tokens are laid out; see :meth:`AttentionCore.place`."""
        self.core.place(layer_index, num_prefix_tokens, grid)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix tokens `(B, N, C) -> (B, N, C)`; a mask from outside is refused."""
        if attn_mask is not None or is_causal:
            raise AttentionError(f"{type(self).__name__} takes no attn_mask and no is_causal.")
        gate = None if self.gate is None else self.gate(x).sigmoid()
        batch, num_tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, num_tokens, 3, self.num_heads, self.head_dim)
        q, k, v = split_projection(qkv)
        # Under autocast a norm may answer in float32; the core wants one dtype.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        x = self.norm(self.core(q, k, v).transpose(1, 2).flatten(2))
        if gate is not None:
            x = x * gate
        return self.proj_drop(self.proj(x))

    def _check_attn_drop(self, attn_drop: float) -> None:
        if attn_drop:
            raise AttentionError(
                f"attn_drop must be 0 for {type(self).__name__}, not {attn_drop}: use proj_drop or drop_path."
            )


class SoftmaxAttention(AttentionModule):
    """Dense softmax attention: equal to timm's own."""

    name = "softmax"
    core_type = SoftmaxCore


class Fibottention(AttentionModule):
    """Sparse attention along Fibonacci diagonals (arXiv 2406.19391); options: `FibottentionOptions`."""

    name = "fibottention"
    core_type = DiagonalCore


class CastlingAttention(AttentionModule):
    """Linear-angular attention with a training-only branch (arXiv 2211.10526); options: `CastlingOptions`."""

    name = "castling"
    core_type = AngularCore
