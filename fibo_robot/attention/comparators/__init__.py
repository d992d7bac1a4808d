"""The attentions that Fibottention and Castling are measured against, each small, exact and differentiable.

They stand in the same registry as ours and keep timm's `qkv` and `proj`, so that an encoder differs in
nothing but its attention. What a paper changes around its attention (extra layers, other projections) is left
out, and each core says so.
"""

from fibo_robot.attention.comparators.afno import AFNO
from fibo_robot.attention.comparators.blocks import BigBird, WindowAttention
from fibo_robot.attention.comparators.linear import EfficientAttention, ViTALiTy
from fibo_robot.attention.comparators.linformer import Linformer
from fibo_robot.attention.comparators.neighbourhood import Neighbourhood
from fibo_robot.attention.comparators.tost import TokenStatisticsAttention
from fibo_robot.attention.comparators.xcit import CrossCovarianceAttention

COMPARATORS = (
    WindowAttention,
    BigBird,
    Neighbourhood,
    Linformer,
    EfficientAttention,
    CrossCovarianceAttention,
    ViTALiTy,
    TokenStatisticsAttention,
    AFNO,
)

__all__ = [
    "AFNO",
    "COMPARATORS",
    "BigBird",
    "CrossCovarianceAttention",
    "EfficientAttention",
    "Linformer",
    "Neighbourhood",
    "TokenStatisticsAttention",
    "ViTALiTy",
    "WindowAttention",
]
