"""Policies whose chunks come out of an objective, a network and a sampler.

Regression is the objective Regression and the sampler OneStep, two-step regression TwoStepRegression and
TwoSteps, flow matching FlowMatching and Euler, Diffusion Policy Diffusion and DDIM; on any network.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from fibo_robot.interfaces import ShapeMeta
from fibo_robot.noise import Noise
from fibo_robot.plugins import register
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.models.denoising.network import ChunkNetwork
from fibo_robot.policies.models.denoising.objectives import Objective
from fibo_robot.policies.models.denoising.samplers import Sampler
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.observation.encoder import Encoder
from fibo_robot.policies.models.rotation import ActionRotation


@register
class DenoisingPolicy(ChunkPolicy):
    """A network trained by an objective and used by a sampler.

    Args:
        objective: what the network learns.
        network: makes it when called with `action_dim`, `action_horizon`, `n_obs_steps` and `features`.
        sampler: makes the sampler when called with `objective`.
        shape_meta, encoder, observation, action_rotation: see ChunkPolicy.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        objective: Objective,
        network: Callable[..., ChunkNetwork],
        sampler: Callable[..., Sampler],
        observation: Callable[..., ObservationEncoder] = ObservationEncoder,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        super().__init__(shape_meta, encoder, observation, action_rotation)
        self.objective, self.sampler = objective, sampler(objective=objective)
        self.network = network(
            action_dim=self.actions.dim,
            action_horizon=shape_meta.action_horizon,
            n_obs_steps=shape_meta.n_obs_steps,
            features=self.observation.out_features,
        )

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Of each step apart, `(B, n_obs_steps, F)`."""
        return self.step_features(obs)

    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        return self.objective.loss(self.network, actions, valid, features)

    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        draws = noise.normal(self.shape_meta.action_horizon, self.actions.dim)
        return self.sampler.sample(self.network, draws.to(features.dtype), features)
