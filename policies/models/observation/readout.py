"""What a policy reads from the tokens that an encoder makes of a picture.

A readout is built for one camera's tokens (their width, their grid, how many stand before the first patch)
and maps `(B, N, D)` to `(B, out_features)`.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fibo_robot.plugins import register
from fibo_robot.policies.models.observation.errors import ObservationError


class Readout(nn.Module, ABC):
    """Tokens of pictures `(B, num_prefix_tokens + H' W', D)` to features `(B, out_features)`."""

    out_features: int

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor: ...


@register
class PatchProjection(Readout):
    """Each patch token projected to a few numbers: where an object is stands in *which* of them respond.

    On few demonstrations this localises far sooner than the mean over tokens, and plays the part that spatial
    softmax plays in robomimic's encoders.

    Args:
        embed_dim, grid_size, num_prefix_tokens: of the encoder.
        features: numbers kept of each patch.
    """

    def __init__(
        self, embed_dim: int, grid_size: tuple[int, int], num_prefix_tokens: int, features: int = 16
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.projection = nn.Linear(embed_dim, features)
        self.out_features = grid_size[0] * grid_size[1] * features

    def forward(self, tokens: Tensor) -> Tensor:
        return self.projection(tokens[:, self.num_prefix_tokens :]).flatten(1)


@register
class PatchMean(Readout):
    """The mean of the patch tokens."""

    def __init__(self, embed_dim: int, grid_size: tuple[int, int], num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens, self.out_features = num_prefix_tokens, embed_dim

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.num_prefix_tokens :].mean(1)


@register
class ClassToken(Readout):
    """The class token.

    Raises:
        ObservationError: the encoder has none.
    """

    def __init__(self, embed_dim: int, grid_size: tuple[int, int], num_prefix_tokens: int) -> None:
        super().__init__()
        if not num_prefix_tokens:
            raise ObservationError(
                "There is no class token to read: the encoder has none, or it belongs to a whole clip and to "
                "no step of it. Choose readout=patches, readout=mean or readout=spatial_softmax."
            )
        self.out_features = embed_dim

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


@register
class SpatialSoftmax(Readout):
    """Where each of some learned keypoints is, as its mean place under a softmax over the patches.

    Finn et al., "Deep spatial autoencoders for visuomotor learning" (ICRA 2016), section IV-B; robomimic's
    pooling, with temperature 1. Places run from -1 to 1 from the left to the right and from the top to the
    bottom.

    Args:
        embed_dim, grid_size, num_prefix_tokens: of the encoder.
        keypoints: K; features are `x_1, y_1, ... x_K, y_K`.
    """

    places: Tensor

    def __init__(
        self, embed_dim: int, grid_size: tuple[int, int], num_prefix_tokens: int, keypoints: int = 32
    ) -> None:
        super().__init__()
        self.num_prefix_tokens, self.out_features = num_prefix_tokens, 2 * keypoints
        self.keypoints = nn.Linear(embed_dim, keypoints)
        rows, columns = (torch.linspace(-1, 1, size) for size in grid_size)
        places = torch.cartesian_prod(rows, columns).flip(-1)  # (H' W', 2) as (x, y), row by row
        self.register_buffer("places", places, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.keypoints(tokens[:, self.num_prefix_tokens :]).softmax(dim=1)
        return (weights.transpose(1, 2) @ self.places.to(weights)).flatten(1)
