"""From a dict of observations to features of each step: an encoder per camera, and proprioception."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fibo_robot.encoders import ImageEncoder, VideoEncoder
from fibo_robot.interfaces import ShapeMeta
from fibo_robot.plugins import register
from fibo_robot.policies.models.observation.augment import CropRandomizer, Jitter
from fibo_robot.policies.models.observation.errors import ObservationError
from fibo_robot.policies.models.observation.readout import PatchProjection, Readout
from fibo_robot.policies.models.observation.resnet import ResNetEncoder

Encoder = ImageEncoder | VideoEncoder | ResNetEncoder
_ALL_CAMERAS = "all_cameras"


@register
class ObservationEncoder(nn.Module):
    """Features of cameras and of normalised low-dimensional observations, side by side, for each step.

    An image encoder sees every step's picture alone. A video encoder sees the last `n_obs_steps` pictures as
    one clip; its tokens of each step are read as an image's are, and know of the steps around.

    Args:
        shape_meta: which keys there are and their shapes.
        encoder: makes an encoder, called as `encoder(image_size=crop)` once per camera.
        crop_size: side of the square crop given to the encoders.
        readout: makes what reads an encoder's tokens; see :mod:`.readout`. None reads nothing: only `tokens`
            works.
        shared: one encoder for all cameras, instead of one each; each is still read by a readout of its own.
        frozen: encoders are not trained.
        jitter: shifts the colours of training pictures.
        low_dim_features: width of the layer on the low-dimensional keys; None takes them as they are.

    Attributes:
        out_features: F, of one step.

    Raises:
        ObservationError: there is a camera but no encoder, a picture is smaller than the crop, or a video
            encoder takes another number of frames or several per token.
    """

    def __init__(
        self,
        shape_meta: ShapeMeta,
        encoder: Callable[..., Encoder] | None,
        crop_size: int = 72,
        readout: Callable[..., Readout] | None = PatchProjection,
        shared: bool = False,
        frozen: bool = False,
        jitter: Jitter | None = None,
        low_dim_features: int | None = 64,
    ) -> None:
        super().__init__()
        self.cameras, self.low_dim_keys = shape_meta.keys("rgb"), shape_meta.keys("low_dim")
        self.frozen = frozen
        for key in self.cameras:
            height, width = shape_meta.obs[key].shape[-2:]
            if not 0 < crop_size <= min(height, width):
                raise ObservationError(
                    f"A crop of {crop_size} x {crop_size} pixels does not fit into {key}, which has "
                    f"{width} x {height}: set observation.crop_size to at most {min(height, width)}."
                )
        if encoder is None and self.cameras:
            raise ObservationError(f"The policy sees cameras {self.cameras}: give it an encoder.")
        names = [_ALL_CAMERAS] if shared and self.cameras else self.cameras
        made = {name: encoder(image_size=crop_size) for name in names} if encoder is not None else {}
        for one in made.values():
            _check_clips(one, shape_meta.n_obs_steps)
        self.crop, self.jitter = CropRandomizer(crop_size), jitter or Jitter()
        self.encoders = nn.ModuleDict(made).requires_grad_(not frozen)
        self.readouts = nn.ModuleDict()
        self.out_features = 0
        if readout is not None:
            for key in self.cameras:
                read = readout(**_token_layout(self.encoder(key))._asdict())
                self.readouts[key] = read
                self.out_features += read.out_features
        width = sum(shape_meta.obs[key].shape[0] for key in self.low_dim_keys)
        self.low_dim_features = low_dim_features or width if width else 0
        self.low_dim = (
            nn.Sequential(nn.Linear(width, low_dim_features), nn.ReLU())
            if width and low_dim_features
            else nn.Identity()
        )
        self.out_features += self.low_dim_features

    def encoder(self, key: str) -> Encoder:
        """What a camera is seen through."""
        return cast(Encoder, self.encoders[key if key in self.encoders else _ALL_CAMERAS])

    def num_tokens(self, key: str) -> int:
        """N, the tokens that `tokens` gives of one picture of this camera."""
        layout = _token_layout(self.encoder(key))
        return layout.num_prefix_tokens + math.prod(layout.grid_size)

    def image_encoders(self) -> dict[str, ImageEncoder]:
        """Image encoders by camera; of those that share one, the camera that it sees last."""
        seen = {id(self.encoder(key)): key for key in self.cameras}
        found = {key: self.encoder(key) for key in seen.values()}
        return {key: encoder for key, encoder in found.items() if isinstance(encoder, ImageEncoder)}

    def train(self, mode: bool = True) -> "ObservationEncoder":
        """Training mode; frozen encoders stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Observations `(B, T, ...)`, vectors normalised, to features of each step `(B, T, out_features)`.

        Raises:
            ObservationError: cameras are not read.
        """
        if self.cameras and not self.readouts:
            raise ObservationError("This policy needs to know what to read of its cameras: choose a readout.")
        parts = [
            self.readouts[key](self.tokens(key, obs[key]).flatten(0, 1)).unflatten(0, obs[key].shape[:2])
            for key in self.cameras
        ]
        if self.low_dim_keys:
            parts.append(self.low_dim_vectors(obs))
        return torch.cat(parts, dim=-1)

    def tokens(self, key: str, images: Tensor) -> Tensor:
        """A camera's pictures `(B, T, 3, H, W)` to the tokens of each step `(B, T, N, D)`.

        Tokens of a picture alone have its prefix tokens first; of a clip there are the patches only.
        """
        images = self.augmented(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return _see(self.encoder(key), images)

    def augmented(self, images: Tensor) -> Tensor:
        """A camera's pictures `(B, T, 3, H, W)` as its encoder is shown them: cropped and coloured."""
        return self.jitter(self.crop(images))

    def low_dim_vectors(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Low-dimensional observations `(B, T, D)` each, to `(B, T, low_dim_features)`."""
        return self.low_dim(torch.cat([obs[key] for key in self.low_dim_keys], dim=-1))


def _see(encoder: Encoder, images: Tensor) -> Tensor:
    if isinstance(encoder, VideoEncoder):
        patches = encoder(images).tokens[:, encoder.num_prefix_tokens :]
        return patches.unflatten(1, (images.shape[1], -1))
    return encoder(images.flatten(0, 1)).tokens.unflatten(0, images.shape[:2])


class _TokenLayout(NamedTuple):
    """How the tokens of one step are laid out, as readouts take it."""

    embed_dim: int
    grid_size: tuple[int, int]
    num_prefix_tokens: int


def _token_layout(encoder: Encoder) -> _TokenLayout:
    if isinstance(encoder, VideoEncoder):
        return _TokenLayout(encoder.embed_dim, encoder.grid[1:], 0)
    return _TokenLayout(encoder.embed_dim, encoder.grid_size, encoder.num_prefix_tokens)


def _check_clips(encoder: Encoder, steps: int) -> None:
    """A video encoder must take the steps that a policy sees, and keep tokens of each."""
    if isinstance(encoder, VideoEncoder) and (encoder.frames, encoder.tubelet) != (steps, 1):
        raise ObservationError(
            f"The video encoder takes {encoder.frames} frames, {encoder.tubelet} to a token; the policy sees "
            f"{steps} steps: set encoder.frames={steps} (or data.n_obs_steps) and encoder.tubelet=1."
        )
