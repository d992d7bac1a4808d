"""ToST's token-statistics attention: tokens are scaled by their group's second moments."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.attention.cores import AttentionCore
from fibo_robot.attention.modules import AttentionModule

SUM_EPSILON = 1e-8  # a group that no token belongs to has no statistics; as in the released code


@dataclass(frozen=True)
class TokenStatisticsOptions:
    """Token-statistics attention has none."""


class TokenStatisticsCore(AttentionCore):
    """Token-statistics self-attention on v: no token meets another, all meet their statistics.

    Token Statistics Transformer (arXiv 2412.17810), section 3 and its released code: with w = v per head
    (subspace) and ŵ normalised over tokens, a token belongs to head i by π_i = softmax_i(τ_i‖ŵ_i‖²), with τ
    learned (state-dict key `temperature`); each channel's second moment is the π-weighted mean of w² over
    tokens; the output is -π·w / (1 + second moment). O(N·d).

    The paper has a single projection. Here it is that of v; q and k are projected as in any other attention
    but have no influence, and get zero gradients. The formula has no place for `scale`.
    """

    options_type = TokenStatisticsOptions
    order_matters = False

    def __init__(self, num_heads: int, head_dim: int, options: TokenStatisticsOptions) -> None:
        super().__init__(num_heads, head_dim, options)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        energy = F.normalize(v, dim=-2).square().sum(dim=-1)
        membership = (energy * self.temperature).softmax(dim=1).to(v.dtype)
        shares = membership / (membership.sum(dim=-1, keepdim=True) + SUM_EPSILON)
        second_moment = shares.unsqueeze(-2) @ v.square()
        return -membership.unsqueeze(-1) * v / (1 + second_moment)


class TokenStatisticsAttention(AttentionModule):
    """Token-statistics self-attention (arXiv 2412.17810)."""

    name = "tost"
    core_type = TokenStatisticsCore
