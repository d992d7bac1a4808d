"""What stands in for a trained encoder, and facts about the fixtures."""

import torch
from torch import nn

RATE = 10  # frames per second of `rise_and_fall`


class Brightness(nn.Module):
    """Stands in for an encoder: whether the first or the last frame of a clip is brighter, and how bright."""

    frames, image_size = 4, (16, 16)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        level = pictures.float().mean((2, 3, 4))
        return torch.stack([level[:, 0] - level[:, -1], level[:, -1] - level[:, 0]], 1)
