"""Behaviour cloning: observation encoder, normaliser and an action head, behind the Policy protocol."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fibo_robot.encoders.image import ImageEncoder
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.models.heads import GaussianMixtureHead
from fibo_robot.policies.models.normalizer import Normalizer
from fibo_robot.policies.models.observation import ObservationEncoder


class BehaviourCloning(nn.Module):
    """Predicts a chunk of actions from the latest observations.

    Args:
        shape_meta: observation keys, action dimension and horizons.
        encoder: makes an image encoder when called with `image_size`; None where no camera is seen.
        head: makes the action head when called with `in_features`, `action_horizon`, `action_dim`.
        crop_size: side of the crop that the encoders see.
        token_features, low_dim_features: see ObservationEncoder.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., ImageEncoder] | None,
        head: Callable[..., GaussianMixtureHead] = GaussianMixtureHead,
        crop_size: int = 72,
        token_features: int | None = 16,
        low_dim_features: int = 64,
    ) -> None:
        super().__init__()
        self.shape_meta = shape_meta
        dimensions = {key: shape_meta.obs[key].shape[0] for key in shape_meta.keys("low_dim")}
        self.normalizer = Normalizer({**dimensions, "action": shape_meta.action_dim})
        self.observation = ObservationEncoder(
            shape_meta, encoder, crop_size, self.normalizer, token_features, low_dim_features
        )
        self.head = head(
            in_features=self.observation.out_features,
            action_horizon=shape_meta.action_horizon,
            action_dim=shape_meta.action_dim,
        )
        self.meta: dict[str, Any] = {}
        self._generators: dict[int, torch.Generator] = {}

    def loss(self, obs: Mapping[str, Tensor], actions: Tensor, valid: Tensor) -> Tensor:
        """Training loss for observations `(B, n_obs_steps, ...)`, actions (B, H, A), valid (B, H)."""
        actions = self.normalizer.normalize("action", actions)
        return self.head.loss(self.observation(obs), actions, valid)

    def reset(self, episodes: Sequence[int]) -> None:
        """Begin episodes: each has a generator seeded by its own number, whatever runs beside it."""
        for episode in episodes:
            self._generators[episode] = torch.Generator().manual_seed(episode)

    def forget(self, episodes: Sequence[int]) -> None:
        """Free the generators of episodes that are over."""
        for episode in episodes:
            self._generators.pop(episode, None)

    @torch.inference_mode()
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        """Actions `(B, n_action_steps, A)` in the environment's units; see `interfaces.Policy`."""
        device = self.normalizer.fitted.device
        features = self.observation({key: value.to(device) for key, value in obs.items()})
        draws = torch.stack([torch.rand((), generator=self._generators[episode]) for episode in episodes])
        chunk = self.normalizer.unnormalize("action", self.head.choose(features, draws.to(device)))
        return chunk[:, : self.shape_meta.n_action_steps].cpu()
