"""Diffusion Policy's convolutional network: a U-Net over a chunk's steps, conditioned by FiLM.

Chi et al., "Diffusion policy" (arXiv 2303.04137), section III; residual blocks after Janner et al., "Planning
with diffusion" (ICML 2022); FiLM is Perez et al., "Visual reasoning with a general conditioning layer" (AAAI
2018).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fibo_robot.plugins import register
from fibo_robot.policies.models.base import PolicyError
from fibo_robot.policies.models.denoising.network import ChunkNetwork, TimeEmbedding


class FilmBlock(nn.Module):
    """Two convolutions around a scale and a shift per channel, which the condition decides, and a short cut.

    Args:
        channels_in, channels_out: of `(B, C, H)`.
        condition: length of the condition's vector.
        kernel_size: odd.
        groups: of the norms.
    """

    def __init__(
        self, channels_in: int, channels_out: int, condition: int, kernel_size: int, groups: int
    ) -> None:
        super().__init__()
        self.before = _convolution(channels_in, channels_out, kernel_size, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * channels_out), nn.Unflatten(1, (-1, 1)))
        self.after = _convolution(channels_out, channels_out, kernel_size, groups)
        same = channels_in == channels_out
        self.short_cut = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, steps: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).chunk(2, dim=1)
        return self.after(scale * self.before(steps) + shift) + self.short_cut(steps)


@register
class ConditionalUnet(ChunkNetwork):
    """A one-dimensional U-Net with FiLM.

    Args:
        action_dim, action_horizon, n_obs_steps, features: A, H, observations seen, and F of each.
        channels: of each level; every level but the last halves the steps.
        kernel_size: of the convolutions; odd.
        groups: of the norms; divides every level's channels.
        time_features: length of the time's embedding.
        condition_features: all features are first reduced to so many; None passes them whole, as in the
            paper.

    Raises:
        PolicyError: the horizon cannot be halved so often, or groups do not divide the channels.
    """

    def __init__(
        self,
        action_dim: int,
        action_horizon: int,
        n_obs_steps: int,
        features: int,
        channels: Sequence[int] = (64, 128),
        kernel_size: int = 5,
        groups: int = 8,
        time_features: int = 128,
        condition_features: int | None = 256,
    ) -> None:
        super().__init__()
        channels = list(channels)
        if action_horizon % 2 ** (len(channels) - 1):
            raise PolicyError(
                f"A U-Net of {len(channels)} levels halves the horizon {len(channels) - 1} times, which "
                f"{action_horizon} does not allow: set data.action_horizon to a multiple of "
                f"{2 ** (len(channels) - 1)}, or give policy.network.channels fewer levels."
            )
        if any(count % groups for count in channels):
            raise PolicyError(
                f"policy.network.groups ({groups}) must divide every level's channels, {channels}."
            )
        self.time = TimeEmbedding(time_features)
        whole = n_obs_steps * features
        self.reduce = nn.Identity() if condition_features is None else nn.Linear(whole, condition_features)
        condition = time_features + (condition_features or whole)

        def block(channels_in: int, channels_out: int) -> FilmBlock:
            return FilmBlock(channels_in, channels_out, condition, kernel_size, groups)

        levels = list(pairwise([action_dim, *channels]))
        self.down = nn.ModuleList(
            nn.ModuleList([block(*level), block(level[1], level[1])]) for level in levels
        )
        self.downsample = nn.ModuleList(nn.Conv1d(count, count, 3, 2, 1) for count in channels[:-1])
        self.middle = nn.ModuleList([block(channels[-1], channels[-1]) for _ in range(2)])
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(count, count, 4, 2, 1) for count in channels[:-1])
        self.up = nn.ModuleList(
            nn.ModuleList([block(2 * above, below), block(below, below)])
            for below, above in pairwise(channels)
        )
        self.out = nn.Sequential(
            _convolution(channels[0], channels[0], kernel_size, groups), nn.Conv1d(channels[0], action_dim, 1)
        )

    def forward(self, chunks: Tensor, times: Tensor, seen: Tensor) -> Tensor:
        condition = torch.cat([self.time(times), self.reduce(seen.flatten(1))], dim=-1)
        steps = chunks.transpose(1, 2)
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            steps = _through(blocks, steps, condition)
            kept.append(steps)
            if level < len(self.downsample):
                steps = self.downsample[level](steps)
        steps = _through(self.middle, steps, condition)
        for level in reversed(range(len(self.up))):
            steps = _through(self.up[level], torch.cat([steps, kept[level + 1]], dim=1), condition)
            steps = self.upsample[level](steps)
        return self.out(steps).transpose(1, 2)


def _through(blocks: nn.Module, steps: Tensor, condition: Tensor) -> Tensor:
    for block in blocks.children():
        steps = block(steps, condition)
    return steps


def _convolution(channels_in: int, channels_out: int, kernel_size: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
        nn.GroupNorm(groups, channels_out),
        nn.Mish(),
    )
