"""From a dict of observations to one feature vector: an image encoder per camera, and proprioception."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fibo_robot.encoders.image import ImageEncoder
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ShapeMeta


class ObservationError(FiboError, ValueError):
    """A policy's view of its observations cannot be built: no encoder for a camera, or too large a crop."""


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
    """Concatenates features of cameras and of normalised low-dimensional observations over time.

    A camera's features are its patch tokens, each projected to a few numbers, side by side: where an
    object is stands in *which* numbers respond. On few demonstrations this localises far sooner than
    the mean over tokens, and plays the part that spatial softmax plays in robomimic's encoders.

    Args:
        shape_meta: which keys there are and their shapes.
        encoder: makes one image encoder, called as `encoder(image_size=crop)` once per camera.
        crop_size: side of the square crop given to the encoders.
        token_features: numbers kept of each patch token; None takes the encoder's pooled vector instead.
        low_dim_features: width of the layer on the low-dimensional keys.

    Raises:
        ObservationError: there is a camera but no encoder, or a picture is smaller than the crop.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., ImageEncoder] | None,
        crop_size: int,
        token_features: int | None = 16,
        low_dim_features: int = 64,
    ) -> None:
        super().__init__()
        self.cameras, self.low_dim_keys = shape_meta.keys("rgb"), shape_meta.keys("low_dim")
        for key in self.cameras:
            height, width = shape_meta.obs[key].shape[-2:]
            if not 0 < crop_size <= min(height, width):
                raise ObservationError(
                    f"A crop of {crop_size} x {crop_size} pixels does not fit into {key}, which has "
                    f"{width} x {height}: set policy.crop_size to at most {min(height, width)}."
                )
        if encoder is None and self.cameras:
            raise ObservationError(f"The policy sees cameras {self.cameras}: give it an encoder.")
        vits = {key: encoder(image_size=crop_size) for key in self.cameras} if encoder is not None else {}
        self.crop = CropRandomizer(crop_size)
        self.encoders = nn.ModuleDict(vits)
        self.projections = nn.ModuleDict()
        features = 0
        for key, vit in vits.items():
            if token_features is None:
                features += vit.embed_dim
            else:
                self.projections[key] = nn.Linear(vit.embed_dim, token_features)
                features += vit.num_patches * token_features
        width = sum(shape_meta.obs[key].shape[0] for key in self.low_dim_keys)
        self.low_dim = nn.Sequential(nn.Linear(width, low_dim_features), nn.ReLU()) if width else None
        features += low_dim_features if width else 0
        self.out_features = features * shape_meta.n_obs_steps

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations `(B, n_obs_steps, ...)`, vectors normalised, to features `(B, out_features)`."""
        parts = [
            self._see(key, obs[key].flatten(0, 1)).unflatten(0, obs[key].shape[:2]) for key in self.cameras
        ]
        if self.low_dim is not None:
            parts.append(self.low_dim(torch.cat([obs[key] for key in self.low_dim_keys], dim=-1)))
        return torch.cat(parts, dim=-1).flatten(1)

    def _see(self, key: str, images: Tensor) -> Tensor:
        vit = cast(ImageEncoder, self.encoders[key])
        tokens, pooled = vit(self.crop(images))
        if key not in self.projections:
            return pooled
        return self.projections[key](tokens[:, vit.num_prefix_tokens :]).flatten(1)
