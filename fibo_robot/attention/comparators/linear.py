"""Efficient Attention and ViTALiTy's Taylor attention: keys meet values first, so cost is linear in N."""

from dataclasses import dataclass

from torch import Tensor

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.modules import AttentionModule


@dataclass(frozen=True)
class EfficientOptions:
    """Efficient Attention has none."""


@dataclass(frozen=True)
class ViTALiTyOptions:
    """ViTALiTy's attention has none."""


class EfficientCore(AttentionCore):
    """softmax(q) over features times (softmax(k) over tokens)ᵀ v.

    Efficient Attention (Shen et al., arXiv 1812.01243), section 3.2, with softmax normalisation: ρ_q(Q)
    (ρ_k(K)ᵀ V). O(N·d²). Every row of the implied N x N weights sums to 1. The formula has no place for
    `scale`.
    """

    options_type = EfficientOptions
    order_matters = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        context = k.softmax(dim=-2).transpose(-2, -1).to(v.dtype) @ v
        return q.softmax(dim=-1).to(v.dtype) @ context


class ViTALiTyCore(AttentionCore):
    """First-order Taylor expansion of softmax attention around mean-centred keys.

    ViTALiTy (arXiv 2211.05109), section III, "linear Taylor attention": with k̂ = k - mean(k), which leaves
    softmax unchanged, exp(s·q·k̂) is replaced by 1 + s·q·k̂. Centred keys add up to zero, so that every row's
    denominator is N and out = mean(v) + s/N · q(k̂ᵀ v). O(N·d²). The paper adds a sparse softmax branch while
    training and drops it for inference; it is left out here.
    """

    options_type = ViTALiTyOptions
    order_matters = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        factor: float = self.head_dim**-0.5 if scale is None else scale
        centred = k - k.mean(dim=-2, keepdim=True)
        context = centred.transpose(-2, -1) @ v * (factor / k.shape[-2])
        return v.mean(dim=-2, keepdim=True) + q @ context


class EfficientAttention(AttentionModule):
    """Efficient Attention (arXiv 1812.01243)."""

    name = "efficient"
    core_type = EfficientCore


class ViTALiTy(AttentionModule):
    """Linear Taylor attention (arXiv 2211.05109)."""

    name = "vitality"
    core_type = ViTALiTyCore
