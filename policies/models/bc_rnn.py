"""BC-RNN-GMM: an LSTM over an episode's observations, and a mixture over each next action.

Mandlekar et al., "What matters in learning from offline human demonstrations for robot manipulation" (CoRL
2021), as robomimic has it: trained on sequences of H steps that begin with an empty state, and in an episode
the state is emptied after every H steps, so that the network never meets one that training does not have.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.noise import Noise
from fibo_robot.plugins import register
from fibo_robot.policies.models.base import ChunkPolicy, PolicyError
from fibo_robot.policies.models.heads import GaussianMixtureHead
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.observation.encoder import Encoder
from fibo_robot.policies.models.rotation import ActionRotation


@register
class RecurrentBehaviourCloning(ChunkPolicy):
    """One action a decision, from the observations since the state was last empty.

    `shape_meta.action_horizon` is H: the length of training sequences, and of the state's life.

    Args:
        head: makes the head of one action when called with `in_features`, `action_horizon`, `action_dim`.
        hidden: width of the LSTM.
        layers: of the LSTM.
        shape_meta, encoder, observation, action_rotation: see ChunkPolicy.

    Raises:
        PolicyError: the policy is to see several observations at once, or to execute several actions a
            decision.
    """

    window: ClassVar[Window] = "sequence"

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        head: Callable[..., GaussianMixtureHead] = GaussianMixtureHead,
        hidden: int = 400,
        layers: int = 2,
        observation: Callable[..., ObservationEncoder] = ObservationEncoder,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        if (shape_meta.n_obs_steps, shape_meta.n_action_steps) != (1, 1):
            raise PolicyError(
                "A recurrent policy looks before each action: set data.n_obs_steps=1 data.n_action_steps=1."
            )
        super().__init__(shape_meta, encoder, observation, action_rotation)
        self.rnn = nn.LSTM(self.observation.out_features, hidden, layers, batch_first=True)
        self.head = head(in_features=hidden, action_horizon=1, action_dim=self.actions.dim)

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Of each step apart, `(B, T, F)`."""
        return self.step_features(obs)

    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        outputs, _ = self.rnn(features)
        # Steps past the end of a demonstration come last, so no state of a valid step knows of them.
        chosen = actions[valid][:, None]
        return self.head.loss(outputs[valid], chosen, torch.ones_like(chosen[..., 0], dtype=torch.bool))

    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        output, states = self.rnn(features, self._states(features, noise))
        # An episode's state is (2, layers, hidden): the LSTM's h and c.
        self.episode_state.update(zip(noise.seeds, torch.stack(states).unbind(2), strict=True))
        return self.head.choose(output[:, 0], noise.uniform())

    def _states(self, features: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """h and c `(layers, B, hidden)` before this decision; zeros where a new sequence begins."""
        empty = features.new_zeros(2, self.rnn.num_layers, self.rnn.hidden_size)
        begins = [decision % self.shape_meta.action_horizon == 0 for decision in noise.decisions]
        rows = [
            empty if new else self.episode_state[episode]
            for episode, new in zip(noise.seeds, begins, strict=True)
        ]
        h, c = torch.stack(rows, dim=2)
        return h, c
