"""The smallest network for chunks: everything side by side through residual layers."""

import torch
from torch import Tensor, nn

from fibo_robot.plugins import register
from fibo_robot.policies.models.denoising.network import ChunkNetwork, TimeEmbedding


@register
class ChunkMlp(ChunkNetwork):
    """A residual MLP over the chunk, the time and all features.

    Args:
        action_dim, action_horizon, n_obs_steps, features: A, H, observations seen, and F of each.
        width: of the layers.
        layers: residual ones.
        dropout: in them.
        time_features: length of the time's embedding.
    """

    def __init__(
        self,
        action_dim: int,
        action_horizon: int,
        n_obs_steps: int,
        features: int,
        width: int = 512,
        layers: int = 3,
        dropout: float = 0.0,
        time_features: int = 64,
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(time_features)
        # Where noise is asked for and a chunk is little else, the answer is the chunk itself. That share is
        # passed on as it is: layers of a fixed width pass so many numbers on only roughly.
        self.share = nn.Linear(time_features, 1)
        size = action_horizon * action_dim
        self.into = nn.Linear(size + time_features + n_obs_steps * features, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout))
            for _ in range(layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))

    def forward(self, chunks: Tensor, times: Tensor, seen: Tensor) -> Tensor:
        time = self.time(times)
        hidden = self.into(torch.cat([chunks.flatten(1), time, seen.flatten(1)], dim=-1))
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.out(hidden).view_as(chunks) + self.share(time)[..., None] * chunks
