"""An attentive probe: what a frozen encoder knows, read out by a few blocks of attention that are trained.

The protocol of V-JEPA 2 (arXiv 2506.09985) and, before it, of V-JEPA (arXiv 2404.08471): four transformer
blocks over all of the encoder's tokens, the last of which is a cross-attention by one learned query, then one
linear layer. The encoder is never trained, and never in training mode.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

import fibo_robot.lean_timm  # noqa: F401  # isort: skip  # before timm
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fibo_robot.encoders import VideoEncoder
from fibo_robot.encoders.space_time import sinusoidal_positions
from fibo_robot.errors import FiboError
from fibo_robot.plugins import register
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.published_encoder import PublishedEncoder


class ProbeError(FiboError, ValueError):
    """A probe was described in numbers that do not fit."""


class QueryBlock(nn.Module):
    """A transformer block in which one learned query attends to all tokens, `(B, N, D)` to `(B, D)`.

    Args:
        dim: D.
        num_heads: of the attention.
        mlp_ratio: width of the MLP over D.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        query, tokens = self.query.expand(len(tokens), -1, -1), self.norm1(tokens)
        query = query + self.attn(query, tokens, tokens, need_weights=False)[0]
        return (query + self.mlp(self.norm2(query)))[:, 0]

    def no_weight_decay(self) -> set[str]:
        """timm's list of parameters that are not decayed: the query is a class token."""
        return {"query"}


@register
class AttentiveProbe(VideoClassifier):
    """A frozen encoder and the probe that is trained on its tokens; see the module's text.

    An encoder whose frames do not meet (`mode: frames`: any image model of timm's) gives tokens that do not
    say when they were seen. For it, fixed sinusoidal positions in space and time are added to them.

    Args:
        encoder: makes the video encoder when called, ours or one of transformers; its weights should be
            pretrained ones.
        labels: names of the classes, in the order of the scores.
        dropout: on what the query has gathered.
        depth: blocks, the last one with the query.
        num_heads: of each; None is one for every 64 of the width.
        mlp_ratio: width of the MLPs over that of the tokens.

    Raises:
        ProbeError: there is no block, or the heads do not divide the width.
        SamplingError: the encoder takes frames that are not square.
    """

    positions: Tensor | None

    def __init__(
        self,
        encoder: Callable[[], VideoEncoder | PublishedEncoder],
        labels: Sequence[str],
        dropout: float = 0.0,
        depth: int = 4,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        # What is used of an encoder besides its being a module, both kinds have.
        super().__init__(cast("Callable[[], VideoEncoder]", encoder), labels, dropout)
        dim = self.encoder.embed_dim
        heads = num_heads or max(1, dim // 64)
        if depth < 1 or dim % heads:
            raise ProbeError(
                f"a probe needs a block at least, and heads that divide the encoder's width: depth is "
                f"{depth}, num_heads {heads}, the width {dim}."
            )
        self.encoder.requires_grad_(False).eval()
        blocks = [Block(dim, heads, mlp_ratio, qkv_bias=True) for _ in range(depth - 1)]
        self.probe = nn.Sequential(*blocks, QueryBlock(dim, heads, mlp_ratio))
        blind = isinstance(self.encoder, VideoEncoder) and self.encoder.mode == "frames"
        positions = sinusoidal_positions(self.encoder.grid, dim).flatten(1, 2) if blind else None
        self.register_buffer("positions", positions, persistent=False)

    def train(self, mode: bool = True) -> "AttentiveProbe":
        """Training mode for the probe; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Scores `(B, classes)` before the softmax, of clips `(B, T, 3, H, W)`; see VideoEncoder."""
        with torch.no_grad():
            tokens = self.encoder(clips).tokens
            if self.positions is not None:
                prefix = self.encoder.num_prefix_tokens
                tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:] + self.positions], dim=1)
        return self.head(self.dropout(self.probe(tokens)))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's description of the layers that are trained: the probe's blocks, then the head."""
        return {"stem": r"^encoder\.", "blocks": r"^probe\.(\d+)"}
