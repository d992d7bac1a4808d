"""BC-Transformer: causal attention over the last observations, and a mixture over the chunk that follows.

After robomimic's BC-Transformer-GMM (its context is `n_obs_steps`), on PyTorch's own encoder layers.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fibo_robot.interfaces import ShapeMeta
from fibo_robot.noise import Noise
from fibo_robot.plugins import register
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.models.heads import GaussianMixtureHead
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.observation.encoder import Encoder
from fibo_robot.policies.models.rotation import ActionRotation


class CausalTransformer(nn.Module):
    """A pre-norm transformer over time in which no step knows of later ones.

    Args:
        in_features: of each step.
        steps: the longest sequence T.
        width, layers, heads: of the transformer.
        dropout: in it.
    """

    mask: Tensor

    def __init__(
        self, in_features: int, steps: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_features, width)
        self.positions = nn.Parameter(torch.empty(steps, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        mask = nn.Transformer.generate_square_subsequent_mask(steps)
        self.register_buffer("mask", mask, persistent=False)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone, as timm's models name them."""
        return {"positions"}

    def forward(self, steps: Tensor) -> Tensor:
        """Features `(B, T, F)` to `(B, T, width)`; row t depends on rows up to t."""
        count = steps.shape[1]
        tokens = self.embed(steps) + self.positions[:count]
        return self.blocks(tokens, mask=self.mask[:count, :count], is_causal=True)


@register
class TransformerBehaviourCloning(ChunkPolicy):
    """Fits a mixture over action chunks to what a causal transformer makes of the last observations.

    Args:
        head: makes the action head when called with `in_features`, `action_horizon`, `action_dim`.
        width, layers, heads, dropout: of the transformer.
        shape_meta, encoder, observation, action_rotation: see ChunkPolicy.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        head: Callable[..., GaussianMixtureHead] = GaussianMixtureHead,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        observation: Callable[..., ObservationEncoder] = ObservationEncoder,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        super().__init__(shape_meta, encoder, observation, action_rotation)
        self.transformer = CausalTransformer(
            self.observation.out_features, shape_meta.n_obs_steps, width, layers, heads, dropout
        )
        self.head = head(
            in_features=width, action_horizon=shape_meta.action_horizon, action_dim=self.actions.dim
        )

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Of each step apart, `(B, n_obs_steps, F)`."""
        return self.step_features(obs)

    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        return self.head.loss(self.transformer(features)[:, -1], actions, valid)

    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        return self.head.choose(self.transformer(features)[:, -1], noise.uniform())
