"""XCiT's cross-covariance attention: channels attend to channels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.modules import AttentionModule


@dataclass(frozen=True)
class CrossCovarianceOptions:
    """Cross-covariance attention has none."""


class CrossCovarianceCore(AttentionCore):
    """softmax(q̂ k̂ᵀ · τ) v on transposed tensors: a d x d matrix per head mixes channels.

    XCiT (arXiv 2106.09681), section 3.2: q̂ and k̂ are L2-normalised over tokens, and τ is learned per head
    (state-dict key `temperature`). O(N·d²). Equal to timm's `XCA`. The paper's blocks add a layer of local
    patch interaction, without which patches exchange little, and class-attention layers; both are left out.
    The formula has no place for `scale`.
    """

    options_type = CrossCovarianceOptions
    order_matters = False

    def __init__(self, num_heads: int, head_dim: int, options: CrossCovarianceOptions) -> None:
        super().__init__(num_heads, head_dim, options)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
        weights = (q.transpose(-2, -1) @ k * self.temperature).softmax(dim=-1).to(v.dtype)
        return v @ weights.transpose(-2, -1)


class CrossCovarianceAttention(AttentionModule):
    """Cross-covariance attention (arXiv 2106.09681)."""

    name = "xcit"
    core_type = CrossCovarianceCore
