"""Behaviour cloning with an action head that gives a distribution over chunks."""

from collections.abc import Callable

from torch import Tensor

from fibo_robot.interfaces import ShapeMeta
from fibo_robot.noise import Noise
from fibo_robot.plugins import register
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.models.heads import GaussianMixtureHead
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.observation.encoder import Encoder
from fibo_robot.policies.models.rotation import ActionRotation


@register
class BehaviourCloning(ChunkPolicy):
    """Fits a mixture over action chunks by likelihood.

    Args:
        head: makes the action head when called with `in_features`, `action_horizon`, `action_dim`.
        shape_meta, encoder, observation, action_rotation: see ChunkPolicy.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        head: Callable[..., GaussianMixtureHead] = GaussianMixtureHead,
        observation: Callable[..., ObservationEncoder] = ObservationEncoder,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        super().__init__(shape_meta, encoder, observation, action_rotation)
        self.head = head(
            in_features=self.observation.out_features * shape_meta.n_obs_steps,
            action_horizon=shape_meta.action_horizon,
            action_dim=self.actions.dim,
        )

    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        return self.head.loss(features, actions, valid)

    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        return self.head.choose(features, noise.uniform())
