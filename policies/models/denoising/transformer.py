"""Diffusion Policy's transformer: a chunk's steps attend to earlier ones, the time, and what is seen.

Chi et al., "Diffusion policy" (arXiv 2303.04137), section III, on PyTorch's own decoder layers.
"""

import torch
from torch import Tensor, nn

from fibo_robot.plugins import register
from fibo_robot.policies.models.denoising.network import ChunkNetwork, TimeEmbedding


@register
class ChunkTransformer(ChunkNetwork):
    """A causal decoder over the chunk's steps whose memory is the time and the observed steps.

    Args:
        action_dim, action_horizon, n_obs_steps, features: A, H, observations seen, and F of each.
        width, layers, heads, dropout: of the decoder.
    """

    causal: Tensor

    def __init__(
        self,
        action_dim: int,
        action_horizon: int,
        n_obs_steps: int,
        features: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(width)
        self.embed = nn.Linear(action_dim, width)
        self.observe = nn.Linear(features, width)
        self.positions = nn.Parameter(torch.empty(action_horizon, width))
        self.memory_positions = nn.Parameter(torch.empty(1 + n_obs_steps, width))
        for positions in (self.positions, self.memory_positions):
            nn.init.trunc_normal_(positions, std=0.02)
        self.memory = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        layer = nn.TransformerDecoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        mask = nn.Transformer.generate_square_subsequent_mask(action_horizon)
        self.register_buffer("causal", mask, persistent=False)
        self.out = nn.Linear(width, action_dim)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone, as timm's models name them."""
        return {"positions", "memory_positions"}

    def forward(self, chunks: Tensor, times: Tensor, seen: Tensor) -> Tensor:
        memory = torch.cat([self.time(times)[:, None], self.observe(seen)], dim=1) + self.memory_positions
        steps = self.decoder(
            self.embed(chunks) + self.positions,
            self.memory(memory),
            tgt_mask=self.causal,
            tgt_is_causal=True,
        )
        return self.out(steps)
