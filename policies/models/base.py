"""What every policy is: observations in, a chunk of actions out, behind the Policy protocol.

A family of policies is a small file beside this one: it predicts normalised chunks from features and noise,
and has a loss. Normalising, seeing, counting each episode's decisions and the environment's units are here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fibo_robot.encoders.image import ImageEncoder
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.noise import Noise
from fibo_robot.policies.models.normalizer import Normalizer
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.rotation import ActionRotation, ActionTransform


class EpisodeNotBegun(FiboError):
    """A policy is to act in an episode that `reset` did not begin, or that is forgotten."""


class ChunkPolicy(nn.Module, ABC):
    """Base of policies that predict a chunk of actions from the latest observations.

    Args:
        shape_meta: observation keys, actions and horizons.
        encoder: makes an image encoder when called with `image_size`; None where no camera is seen.
        crop_size: side of the crop that the encoders see.
        token_features, low_dim_features: see ObservationEncoder.
        action_rotation: how absolute rotations look inside, `6d` or `axis_angle`; see ActionTransform.

    Attributes:
        window: which observations a training sample must hold; see DemonstrationDataset.
        meta: the checkpoint's meta.json, where it was loaded from one.
    """

    window: ClassVar[Window] = "past"

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., ImageEncoder] | None,
        crop_size: int = 72,
        token_features: int | None = 16,
        low_dim_features: int = 64,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        super().__init__()
        self.shape_meta = shape_meta
        self.actions = ActionTransform(shape_meta.action, action_rotation)
        dimensions = {key: shape_meta.obs[key].shape[0] for key in shape_meta.keys("low_dim")}
        self.normalizer = Normalizer({**dimensions, "action": self.actions.dim})
        self.observation = ObservationEncoder(
            shape_meta, encoder, crop_size, token_features, low_dim_features
        )
        self.meta: dict[str, Any] = {}
        self._decisions: dict[int, int] = {}

    @abstractmethod
    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean loss of features (B, F) against normalised actions (B, H, A'); `valid` is (B, H)."""

    @abstractmethod
    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        """Normalised actions (B, H, A') for features (B, F); row i draws only from row i of `noise`."""

    def image_encoders(self) -> dict[str, ImageEncoder]:
        """What it sees each camera through, by observation key."""
        return {
            key: encoder
            for key, encoder in self.observation.encoders.items()
            if isinstance(encoder, ImageEncoder)
        }

    def fit_normalizer(self, statistics: Mapping[str, Tensor]) -> None:
        """Take the statistics of the data: `(samples, D)` of every low-dimensional key and of `action`."""
        self.normalizer.fit({**statistics, "action": self.actions.encode(statistics["action"])})

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations `(B, n_obs_steps, ...)` to features (B, F)."""
        low_dim = {key: self.normalizer.normalize(key, obs[key]) for key in self.shape_meta.keys("low_dim")}
        return self.observation({**obs, **low_dim})

    def loss(self, obs: Mapping[str, Tensor], actions: Tensor, valid: Tensor) -> Tensor:
        """Training loss for observations `(B, n_obs_steps, ...)`, actions (B, H, A), valid (B, H)."""
        normalized = self.normalizer.normalize("action", self.actions.encode(actions))
        return self.chunk_loss(self.features(obs), normalized, valid)

    def reset(self, episodes: Sequence[int]) -> None:
        """Begin episodes, named by their seeds: each draws noise of its own, whatever runs beside it."""
        self._decisions.update(dict.fromkeys(episodes, 0))

    def forget(self, episodes: Sequence[int]) -> None:
        """Free what these episodes held."""
        for episode in episodes:
            self._decisions.pop(episode, None)

    @torch.inference_mode()
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        """Actions `(B, n_action_steps, A)` in the environment's units, on the observations' device.

        Raises:
            EpisodeNotBegun: for an episode that was not reset.
        """
        device = self.normalizer.fitted.device
        noise = Noise(tuple(episodes), tuple(map(self._decide, episodes)), device)
        chunk = self.predict(self.features({key: value.to(device) for key, value in obs.items()}), noise)
        actions = self.actions.decode(self.normalizer.unnormalize("action", chunk))
        return actions[:, : self.shape_meta.n_action_steps].to(next(iter(obs.values())).device)

    def _decide(self, episode: int) -> int:
        """Count one more decision of an episode; returns how many it made before."""
        if episode not in self._decisions:
            raise EpisodeNotBegun(f"Episode {episode} has not begun: call policy.reset([{episode}]) first.")
        self._decisions[episode] += 1
        return self._decisions[episode] - 1
