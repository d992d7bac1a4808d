"""robomimic's and Diffusion Policy's picture encoder, torchvision's ResNet-18, as an encoder of ours."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from fibo_robot.encoders import EncoderOutput
from fibo_robot.encoders.weights import WeightsError
from fibo_robot.plugins import register
from fibo_robot.policies.models.observation.errors import ObservationError

# Mean and standard deviation of ImageNet's pixels, which torchvision's weights were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STRIDE, _WIDTH, _CHANNELS_PER_GROUP = 32, 512, 16


@register
class ResNetEncoder(nn.Module):
    """ResNet-18 up to its last feature map, whose places are the tokens.

    Args:
        image_size: side of the pictures it takes.
        norm: `group` as in Diffusion Policy (16 channels a group), which suits small batches and averaged
            weights, or `batch` as in robomimic.
        pretrained: start from torchvision's ImageNet weights (downloaded once); needs `batch`.

    Attributes:
        embed_dim, grid_size, num_prefix_tokens: of its tokens: D, (H', W'), 0.

    Raises:
        ObservationError: for another norm, or pretrained weights with groups.
        WeightsError: the pretrained weights cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, image_size: int, norm: Literal["group", "batch"] = "group", pretrained: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("group", "batch"):
            raise ObservationError(f"norm must be group or batch, not {norm!r}.")
        if pretrained and norm != "batch":
            raise ObservationError("torchvision's weights come with batch norms: set encoder.norm=batch.")
        try:
            whole = resnet18(
                weights=ResNet18_Weights.IMAGENET1K_V1 if pretrained else None,
                norm_layer=None if norm == "batch" else _group_norm,
            )
        except OSError as error:
            raise WeightsError(f"Pretrained weights of resnet18 could not be loaded: {error}") from error
        self.trunk = nn.Sequential(OrderedDict(list(whole.named_children())[:-2]))  # no pooling, no classes
        side = -(-image_size // _STRIDE)
        self.image_size, self.grid_size = (image_size, image_size), (side, side)
        self.embed_dim, self.num_prefix_tokens = _WIDTH, 0
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> EncoderOutput:
        """Encode `(B, 3, H, W)`, float in [0, 1] or uint8, of its own image size."""
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        tokens = self.trunk((images - self.mean) / self.std).flatten(2).transpose(1, 2)
        return EncoderOutput(tokens, tokens.mean(1))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // _CHANNELS_PER_GROUP, channels)
