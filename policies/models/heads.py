"""Action heads: from a feature vector to a distribution over a chunk of future actions."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from fibo_robot.plugins import register


def mlp(sizes: list[int], dropout: float) -> nn.Sequential:
    """Linear layers with GELU and dropout between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


@register
class GaussianMixtureHead(nn.Module):
    """Mixture of Gaussians over a whole action chunk, as in robomimic's BC-GMM, but joint over time.

    Each mode is one consistent way to continue: its component is drawn once per chunk. Normalised
    actions, so means are squashed to [-1, 1].

    Args:
        in_features: length of the feature vector.
        action_horizon: predicted actions H.
        action_dim: A.
        modes: mixture components.
        hidden: widths of the hidden layers.
        min_std: lower bound of the standard deviation in normalised units. It bounds how sharply the
            likelihood can reward a memorised action.
        dropout: on the hidden layers.

    Raises:
        ValueError: there is no mode, or `min_std` is negative.
    """

    def __init__(
        self,
        in_features: int,
        action_horizon: int,
        action_dim: int,
        modes: int = 5,
        hidden: tuple[int, ...] = (512, 512),
        min_std: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if modes < 1 or min_std < 0:
            raise ValueError(f"head.modes must be at least 1 and min_std 0, not {modes} and {min_std}.")
        self.modes, self.action_horizon, self.action_dim, self.min_std = (
            modes,
            action_horizon,
            action_dim,
            min_std,
        )
        outputs = modes * (2 * action_horizon * action_dim + 1)
        self.network = mlp([in_features, *hidden, outputs], dropout)

    def forward(self, features: Tensor) -> MixtureSameFamily:
        """Features (B, F) to a distribution with event shape (H, A)."""
        means, stds, logits = self._outputs(features)
        components = Normal(means, F.softplus(stds) + self.min_std)
        return MixtureSameFamily(Categorical(logits=logits), Independent(components, 2))

    def _outputs(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The modes' means, what makes their deviations, `(B, modes, H, A)` each, and logits (B, modes)."""
        chunk = self.modes * self.action_horizon * self.action_dim
        means, stds, logits = self.network(features).float().split([chunk, chunk, self.modes], dim=-1)
        shape = (self.modes, self.action_horizon, self.action_dim)
        return torch.tanh(means).unflatten(-1, shape), stds.unflatten(-1, shape), logits

    def loss(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """Mean negative log-likelihood per valid action of `actions` (B, H, A); `valid` is (B, H).

        Steps past the end of a demonstration are not valid and carry no loss.
        """
        distribution = self(features)
        per_dimension = distribution.component_distribution.base_dist.log_prob(actions[:, None])
        per_mode = (per_dimension.sum(-1) * valid[:, None]).sum(-1)
        log_likelihood = torch.logsumexp(per_mode + distribution.mixture_distribution.logits, dim=-1)
        return -(log_likelihood / valid.sum(-1)).mean()

    def choose(self, features: Tensor, draws: Tensor) -> Tensor:
        """One chunk (B, H, A) per row: the mean of the component that `draws` (B,) in [0, 1) selects.

        Taking the component's mean rather than a sample around it is robomimic's low-noise evaluation. A row
        that is not finite gives NaN, and no other does: a distribution would refuse all rows for it.
        """
        means, _, logits = self._outputs(features)
        cumulative = logits.softmax(-1).cumsum(-1)
        mode = (draws[:, None] >= cumulative).sum(-1).clamp(max=self.modes - 1)
        chosen = means[torch.arange(len(means), device=means.device), mode]
        return chosen.where(cumulative[:, -1, None, None].isfinite(), torch.nan)
