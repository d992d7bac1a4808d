"""From a dict of observations to one feature vector: an image encoder per camera, and proprioception."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fibo_robot.encoders.image import ImageEncoder
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.models.normalizer import Normalizer


class CropRandomizer(nn.Module):
    """Crops `size` x `size` from (B, 3, H, W) images: anywhere in training, the centre in evaluation.

    Training on shifted crops keeps a policy from memorising absolute pixel positions (robomimic's and
    Diffusion Policy's standard augmentation: 76 of 84 pixels).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2] - self.size, images.shape[-1] - self.size
        if not self.training:
            return images[..., height // 2 :, width // 2 :][..., : self.size, : self.size]
        batch, device = len(images), images.device
        span = torch.arange(self.size, device=device)
        rows = torch.randint(height + 1, (batch, 1), device=device) + span
        columns = torch.randint(width + 1, (batch, 1), device=device) + span
        index = torch.arange(batch, device=device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        return images[index, channel, rows[:, None, :, None], columns[:, None, None, :]]


class ObservationEncoder(nn.Module):
    """Concatenates camera features and normalised low-dimensional observations over time.

    A camera's features are its patch tokens, each projected to a few numbers, side by side: where an
    object is stands in *which* numbers respond. On few demonstrations this localises far sooner than
    the mean over tokens, and plays the part that spatial softmax plays in robomimic's encoders.

    Args:
        shape_meta: which keys there are and their shapes.
        encoder: makes one image encoder, called as `encoder(image_size=crop)` once per camera.
        crop_size: side of the square crop given to the encoders.
        normalizer: shared with the policy's actions.
        token_features: numbers kept of each patch token; None takes the encoder's pooled vector instead.
        low_dim_features: width of the layer on the low-dimensional keys.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., ImageEncoder] | None,
        crop_size: int,
        normalizer: Normalizer,
        token_features: int | None = 16,
        low_dim_features: int = 64,
    ) -> None:
        super().__init__()
        self.cameras, self.low_dim_keys = shape_meta.keys("rgb"), shape_meta.keys("low_dim")
        if self.cameras and encoder is None:
            raise ValueError(f"The policy sees cameras {self.cameras}: give it an encoder.")
        self.crop = CropRandomizer(crop_size)
        self.encoders = nn.ModuleDict({key: encoder(image_size=crop_size) for key in self.cameras})
        self.projections = nn.ModuleDict()
        features = 0
        for key, vit in self.encoders.items():
            if token_features is None:
                features += vit.embed_dim
            else:
                self.projections[key] = nn.Linear(vit.embed_dim, token_features)
                features += vit.num_patches * token_features
        # A plain reference: the normaliser is the policy's, and is saved once.
        self._normalizer = [normalizer]
        width = sum(shape_meta.obs[key].shape[0] for key in self.low_dim_keys)
        self.low_dim = nn.Sequential(nn.Linear(width, low_dim_features), nn.ReLU()) if width else None
        features += low_dim_features if width else 0
        self.out_features = features * shape_meta.n_obs_steps

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations `(B, n_obs_steps, ...)` to features `(B, out_features)`."""
        parts = [
            self._see(key, obs[key].flatten(0, 1)).unflatten(0, obs[key].shape[:2]) for key in self.cameras
        ]
        if self.low_dim is not None:
            normalizer = self._normalizer[0]
            low_dim = [normalizer.normalize(key, obs[key]) for key in self.low_dim_keys]
            parts.append(self.low_dim(torch.cat(low_dim, dim=-1)))
        return torch.cat(parts, dim=-1).flatten(1)

    def _see(self, key: str, images: Tensor) -> Tensor:
        vit = self.encoders[key]
        tokens, pooled = vit(self.crop(images))
        if key not in self.projections:
            return pooled
        return self.projections[key](tokens[:, vit.num_prefix_tokens :]).flatten(1)
