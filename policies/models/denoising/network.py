"""What objectives and samplers ask of a network: a chunk and a time in, a chunk out, given what is seen."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

# Times run from 0 to 1 for every objective; the embedding's slowest wave turns once in 10 of these units.
_TIME_SCALE = 1000.0


class ChunkNetwork(nn.Module, ABC):
    """A function of a chunk, of time, and of the observation's features."""

    @abstractmethod
    def forward(self, chunks: Tensor, times: Tensor, seen: Tensor) -> Tensor:
        """Chunks `(B, H, A)` at times `(B,)` in [0, 1], given features `(B, n_obs_steps, F)`; `(B, H, A)`."""


class TimeEmbedding(nn.Module):
    """Times `(B,)` in [0, 1] to vectors `(B, dim)`: sines and cosines, and two layers.

    Args:
        dim: even.
    """

    rates: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        # "Attention is all you need" (arXiv 1706.03762), section 3.5.
        rates = torch.exp(-math.log(10000.0) * torch.arange(dim // 2) / (dim // 2 - 1))
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))

    def forward(self, times: Tensor) -> Tensor:
        angles = _TIME_SCALE * times[:, None] * self.rates
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1))
