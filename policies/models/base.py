"""What every policy is: observations in, a chunk of actions out, behind the Policy protocol.

A family of policies is a small file beside this one: it predicts normalised chunks from features and noise,
and has a loss. Normalising, seeing, the environment's units, and what each episode holds are here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fibo_robot.encoders import ImageEncoder
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.noise import Noise
from fibo_robot.policies.models.normalizer import Normalizer
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.observation.encoder import Encoder
from fibo_robot.policies.models.rotation import ActionRotation, ActionTransform


class EpisodeNotBegun(FiboError):
    """A policy is to act in an episode that `reset` did not begin, or that is forgotten."""


class PolicyError(FiboError, ValueError):
    """Parts or horizons that a family of policies cannot be built from; the message names the setting."""


class ChunkPolicy(nn.Module, ABC):
    """Base of policies that predict a chunk of actions from the latest observations.

    Args:
        shape_meta: observation keys, actions and horizons.
        encoder: makes an encoder of pictures when called with `image_size`; None where no camera is seen.
        observation: makes the observation encoder when called with `shape_meta` and `encoder`.
        action_rotation: how absolute rotations look inside, `6d` or `axis_angle`; see ActionTransform.

    Attributes:
        window: which observations a training sample must hold; see DemonstrationDataset.
        meta: the checkpoint's meta.json, where it was loaded from one.
        episode_state: what a family holds of each episode between its decisions.
    """

    window: ClassVar[Window] = "past"

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        observation: Callable[..., ObservationEncoder] = ObservationEncoder,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        super().__init__()
        self.shape_meta = shape_meta
        self.actions = ActionTransform(shape_meta.action, action_rotation)
        dimensions = {key: shape_meta.obs[key].shape[0] for key in shape_meta.keys("low_dim")}
        self.normalizer = Normalizer({**dimensions, "action": self.actions.dim})
        self.observation = observation(shape_meta=shape_meta, encoder=encoder)
        self.meta: dict[str, Any] = {}
        self.episode_state: dict[int, Tensor] = {}
        self._decisions: dict[int, int] = {}

    @abstractmethod
    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean loss of features against normalised actions (B, H, A'); `valid` is (B, H)."""

    @abstractmethod
    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        """Normalised actions (B, H, A') for features; row i draws only from row i of `noise`.

        Row i belongs to the episode `noise.seeds[i]`, whose `noise.decisions[i]`-th decision it is, from 0;
        what that episode must hold until its next decision goes into `episode_state`.
        """

    def image_encoders(self) -> dict[str, ImageEncoder]:
        """The image encoders that cameras are seen through, by observation key."""
        return self.observation.image_encoders()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's description of the layers, for layer-wise learning rates: the encoders' stem and blocks.

        All that is no encoder learns at the full rate; encoders of several cameras learn side by side.
        """
        encoder = r"^observation\.encoders\.\w+\."
        with_the_last = (99999,)  # timm's sign for "in the group before"
        return {
            "stem": encoder + r"(?:embed|temporal_embed|trunk\.(?:conv1|bn1)"
            r"|vit\.(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre))",
            "blocks": [
                (encoder + r"(?:vit\.blocks\.|temporal\.|trunk\.layer)(\d+)", None),
                (encoder + r"vit\.(?:norm|fc_norm)", with_the_last),
            ],
        }

    def fit_normalizer(self, statistics: Mapping[str, Tensor]) -> None:
        """Take the statistics of the data: `(samples, D)` of every low-dimensional key and of `action`."""
        self.normalizer.fit({**statistics, "action": self.actions.encode(statistics["action"])})

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations `(B, n_obs_steps, ...)` to features (B, F) of all steps side by side.

        What `chunk_loss` and `predict` get; a family that tells steps or tokens apart gives another shape.
        """
        return self.step_features(obs).flatten(1)

    def step_features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations `(B, T, ...)` to features of each step `(B, T, F)`."""
        return self.observation(self.normalized(obs))

    def normalized(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same observations with vectors in the network's units."""
        low_dim = {key: self.normalizer.normalize(key, obs[key]) for key in self.shape_meta.keys("low_dim")}
        return {**obs, **low_dim}

    def loss(self, obs: Mapping[str, Tensor], actions: Tensor, valid: Tensor) -> Tensor:
        """Training loss for observations `(B, n_obs_steps, ...)`, actions (B, H, A), valid (B, H)."""
        normalized = self.normalizer.normalize("action", self.actions.encode(actions))
        return self.chunk_loss(self.features(obs), normalized, valid)

    def reset(self, episodes: Sequence[int]) -> None:
        """Begin episodes, named by their seeds: each draws noise of its own, whatever runs beside it."""
        self.forget(episodes)
        self._decisions.update(dict.fromkeys(episodes, 0))

    def forget(self, episodes: Sequence[int]) -> None:
        """Free what these episodes held."""
        for episode in episodes:
            self._decisions.pop(episode, None)
            self.episode_state.pop(episode, None)

    @torch.inference_mode()
    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        """Actions `(B, n_action_steps, A)` in the environment's units, on the observations' device.

        Raises:
            EpisodeNotBegun: for an episode that was not reset.
            PolicyError: another number of observations than of episodes.
        """
        if any(len(value) != len(episodes) for value in obs.values()):
            rows = {key: len(value) for key, value in obs.items()}
            raise PolicyError(
                f"act takes one row of observations an episode, not {rows} for {len(episodes)} episodes."
            )
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
