"""ACT, action chunking with transformers: a conditional VAE over chunks that attends to every token seen.

Zhao et al., "Learning fine-grained bimanual manipulation with low-cost hardware" (RSS 2023). In training an
encoder sees the chunk and says which style z it is of; the policy reconstructs the chunk from z and the
observation. In an episode z is 0, its prior's mean. The transformers are PyTorch's.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fibo_robot.interfaces import ShapeMeta
from fibo_robot.noise import Noise
from fibo_robot.plugins import register
from fibo_robot.policies.models.base import ChunkPolicy, PolicyError
from fibo_robot.policies.models.ensemble import TemporalEnsemble
from fibo_robot.policies.models.observation import ObservationEncoder
from fibo_robot.policies.models.observation.encoder import Encoder
from fibo_robot.policies.models.rotation import ActionRotation


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


class StyleEncoder(nn.Module):
    """Which style a chunk is of, given the observation: a Gaussian over z.

    Args:
        action_dim, horizon: A and H of a chunk.
        latent: length of z.
        width, layers, heads, dropout: of the transformer.
    """

    def __init__(
        self, action_dim: int, horizon: int, latent: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(action_dim, width)
        self.summary = _positions(1, 1, width)
        self.positions = _positions(horizon, width)
        self.blocks = _encoder(width, layers, heads, dropout)
        self.out = nn.Linear(width, 2 * latent)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone, as timm's models name them."""
        return {"summary", "positions"}

    def forward(self, chunks: Tensor, valid: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, `(B, latent)` each.

        Args:
            chunks: normalised actions `(B, H, A)`.
            valid: `(B, H)`; steps past the end of a demonstration are not looked at.
            context: low-dimensional tokens `(B, S, width)` of the observation.
        """
        batch = len(chunks)
        tokens = torch.cat(
            [self.summary.expand(batch, -1, -1), context, self.embed(chunks) + self.positions], dim=1
        )
        always = valid.new_zeros(batch, 1 + context.shape[1])
        encoded = self.blocks(tokens, src_key_padding_mask=torch.cat([always, ~valid], dim=1))
        mean, log_variance = self.out(encoded[:, 0]).chunk(2, dim=-1)
        return mean, log_variance


@register
class ActionChunkingTransformer(ChunkPolicy):
    """L1 regression of chunks from tokens of pictures and proprioception, and from the style z.

    Args:
        width, heads, dropout: of all transformers.
        encoder_layers: of the style encoder, and of the encoder over what is seen.
        decoder_layers: of the decoder with one query a step of the chunk.
        latent: length of z.
        kl_weight: of z's divergence from its prior beside the L1 loss.
        temporal_ensemble: m of :mod:`.ensemble`, 0.01 in the paper; needs `n_action_steps` 1. None executes
            the first `n_action_steps` of each chunk.
        shape_meta, encoder, observation, action_rotation: see ChunkPolicy. Its readout is not used: all
            tokens are.

    Raises:
        PolicyError: temporal ensembling of a policy that executes several actions a decision.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        width: int = 128,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 1,
        dropout: float = 0.1,
        latent: int = 32,
        kl_weight: float = 10.0,
        temporal_ensemble: float | None = None,
        observation: Callable[..., ObservationEncoder] = ObservationEncoder,
        action_rotation: ActionRotation = "6d",
    ) -> None:
        if temporal_ensemble is not None and shape_meta.n_action_steps != 1:
            raise PolicyError("Temporal ensembling decides at every step: set data.n_action_steps=1.")
        super().__init__(shape_meta, encoder, partial(observation, readout=None), action_rotation)
        horizon, self.latent, self.kl_weight = shape_meta.action_horizon, latent, kl_weight
        seen = self.observation
        self.camera_tokens = nn.ModuleDict(
            {key: nn.Linear(seen.encoder(key).embed_dim, width) for key in seen.cameras}
        )
        self.low_dim_tokens = nn.Linear(seen.low_dim_features, width) if seen.low_dim_keys else None
        # What tells steps, cameras and places apart.
        steps = shape_meta.n_obs_steps
        self.low_dim_positions = _positions(steps, width) if seen.low_dim_keys else None
        self.camera_positions = nn.ParameterDict(
            {key: _positions(steps, seen.num_tokens(key), width) for key in seen.cameras}
        )
        self.style = StyleEncoder(self.actions.dim, horizon, latent, width, encoder_layers, heads, dropout)
        self.style_token = nn.Linear(latent, width)
        self.blocks = _encoder(width, encoder_layers, heads, dropout)
        self.queries = _positions(horizon, width)
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True),
            decoder_layers,
            nn.LayerNorm(width),
        )
        self.out = nn.Linear(width, self.actions.dim)
        self.ensemble = None if temporal_ensemble is None else TemporalEnsemble(horizon, temporal_ensemble)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone, as timm's models name them."""
        cameras = {f"camera_positions.{key}" for key in self.camera_positions}
        return {"low_dim_positions", "queries", *cameras}

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Every token seen `(B, N, width)`; those of vectors, one a step, come first."""
        obs = self.normalized(obs)
        tokens = []
        if self.low_dim_tokens is not None:
            vectors = self.observation.low_dim_vectors(obs)
            tokens.append(self.low_dim_tokens(vectors) + self.low_dim_positions)
        for key, project in self.camera_tokens.items():
            seen = project(self.observation.tokens(key, obs[key])) + self.camera_positions[key]
            tokens.append(seen.flatten(1, 2))
        return torch.cat(tokens, dim=1)

    def chunk_loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        vectors = self.shape_meta.n_obs_steps if self.low_dim_tokens is not None else 0
        mean, log_variance = self.style(actions, valid, features[:, :vectors])
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        # From N(mean, variance) to N(0, 1): Kingma and Welling, arXiv 1312.6114, appendix B.
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean() / 2
        reconstruction = F.l1_loss(self._decode(features, z)[valid], actions[valid])
        return reconstruction + self.kl_weight * divergence

    def predict(self, features: Tensor, noise: Noise) -> Tensor:
        chunks = self._decode(features, features.new_zeros(len(features), self.latent))
        if self.ensemble is None:
            return chunks
        held = [self.episode_state.get(episode) for episode in noise.seeds]
        means = self.ensemble.update(chunks, held, noise.decisions)
        self.episode_state.update(zip(noise.seeds, means[:, 1:].unbind(0), strict=True))
        return means

    def _decode(self, features: Tensor, z: Tensor) -> Tensor:
        """Chunks `(B, H, A')` from tokens `(B, N, width)` and styles `(B, latent)`."""
        memory = self.blocks(torch.cat([self.style_token(z)[:, None], features], dim=1))
        return self.out(self.decoder(self.queries.expand(len(features), -1, -1), memory))


def _encoder(width: int, layers: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
