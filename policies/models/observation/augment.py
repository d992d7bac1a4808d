"""What training does to pictures, so that a policy does not memorise pixels. All of it is off in evaluation.

Both draw from torch's global generator, which a training step seeds. One sample's history is one scene: every
step of it gets the same crop and the same colours, so that what moves in it is what moved.
"""

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import ColorJitter

from fibo_robot.plugins import register


class CropRandomizer(nn.Module):
    """Crops `size` x `size` from pictures `(B, T, 3, H, W)`: anywhere in training, the centre in evaluation.

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
        index = torch.arange(batch, device=device)[:, None, None]
        # Advanced indices around a slice go to the front: (B, size, size, T, 3).
        cropped = images[index, :, :, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 4, 1, 2)


@register
class Jitter(nn.Module):
    """Shifts the colours of training pictures `(B, T, 3, H, W)`, by torchvision's ColorJitter.

    Args:
        brightness, contrast, saturation: factors are drawn from [1 - x, 1 + x].
        hue: is turned by [-x, x] of a full circle, at most 0.5. With all at 0 pictures stay as they are.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__()
        self.active = max(brightness, contrast, saturation, hue) > 0
        self.jitter = ColorJitter(brightness, contrast, saturation, hue)

    def forward(self, images: Tensor) -> Tensor:
        if not (self.training and self.active):
            return images
        # torchvision draws once a call: a call per sample gives each its own colours, over all its steps.
        return torch.stack([self.jitter(sample) for sample in images])
