"""Fibottention and Castling attention: functions on tensors, and modules that fit timm's ViTs.

`diagonal_attention` is the sparse kernel, `swap_attention` and `castle` work on whole models,
`create_attention` builds one placed module by name.
"""

import fibo_robot.lean_timm  # noqa: F401  # before anything else imports timm
from fibo_robot.attention.cores import CastlingOptions, FibottentionOptions, Grid
from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.modules import AttentionModule, CastlingAttention, Fibottention, SoftmaxAttention
from fibo_robot.attention.registry import ATTENTIONS, AttentionConfig, create_attention
from fibo_robot.attention.sparse.diagonal import choose_backend, diagonal_attention, force_backend
from fibo_robot.attention.swapping.reports import CastleReport, LayerSwap, SwapReport
from fibo_robot.attention.swapping.swap import castle, place_attention, swap_attention

__all__ = [
    "ATTENTIONS",
    "AttentionConfig",
    "AttentionError",
    "AttentionModule",
    "CastleReport",
    "CastlingAttention",
    "CastlingOptions",
    "Fibottention",
    "FibottentionOptions",
    "Grid",
    "LayerSwap",
    "SoftmaxAttention",
    "SwapReport",
    "castle",
    "choose_backend",
    "create_attention",
    "diagonal_attention",
    "force_backend",
    "place_attention",
    "swap_attention",
]
