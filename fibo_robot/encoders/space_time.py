"""What a video encoder has beyond an image ViT: tubelets, space-time positions, attention over time."""

import copy
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fibo_robot.attention import AttentionConfig, AttentionModule
from fibo_robot.encoders.normalise import EncoderError


class TubeletEmbedding(nn.Module):
    """A ViT's patch projection over `tubelet` frames: `(B, T, 3, H, W) -> (B, T / tubelet, H' W', D)`.

    With `inflate`, the image weights are spread evenly over the frames, so a still clip embeds as its
    picture does. Without, they are fresh, and differ from frame to frame.
    """

    def __init__(self, patch_embed: Any, tubelet: int, inflate: bool) -> None:
        super().__init__()
        image: nn.Conv2d = patch_embed.proj
        self.proj = nn.Conv3d(
            image.in_channels,
            image.out_channels,
            (tubelet, *_pair(image.kernel_size)),
            (tubelet, *_pair(image.stride)),
            bias=image.bias is not None,
        )
        self.norm = patch_embed.norm
        if not inflate:
            return
        with torch.no_grad():
            self.proj.weight.copy_(image.weight.unsqueeze(2).expand_as(self.proj.weight) / tubelet)
            if self.proj.bias is not None and image.bias is not None:
                self.proj.bias.copy_(image.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Project clips to patch tokens, one row of `H' W'` tokens per tubelet."""
        return self.norm(self.proj(clips.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1))


class TemporalBranch(nn.Module):
    """Attention over time at one place: a copy of a block's attention, and a projection that starts at zero.

    TimeSformer (arXiv 2102.05095) has queries, keys and values over time of their own; they start as those
    over space do. The branch is dropped at the block's rate of stochastic depth, for a whole clip at a time.

    Args:
        block: its norm and attention are copied; the copies are trained apart.
        attention: what attends over time with those projections.
    """

    def __init__(self, block: nn.Module, attention: AttentionConfig) -> None:
        super().__init__()
        if not isinstance(block, Block) or not isinstance(block.attn, AttentionModule):
            raise EncoderError(
                f"divided mode needs timm's plain Block, not {type(block).__name__}: choose another mode."
            )
        self.norm = copy.deepcopy(block.norm1)
        self.attn = attention.module_type.taking_over(copy.deepcopy(block.attn), attention.options)
        self.proj = nn.Linear(block.attn.proj.out_features, block.attn.proj.out_features)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        self.drop_path = copy.deepcopy(block.drop_path1)

    def forward(self, patches: Tensor) -> Tensor:
        """What to add to patch tokens `(B, T, N, D)`."""
        batch, _, num_patches, _ = patches.shape
        places = patches.transpose(1, 2).flatten(0, 1)
        mixed = self.proj(self.attn(self.norm(places)))
        return self.drop_path(mixed.unflatten(0, (batch, num_patches)).transpose(1, 2))


def sinusoidal_positions(grid: tuple[int, int, int], dim: int) -> Tensor:
    """Fixed position embeddings of space-time patches, `(1, T, H * W, dim)`.

    Patches are numbered raster within a frame, then by time; channels 2i and 2i + 1 hold the sine and cosine
    of `number / 10000 ** (2i / dim)` ("Attention is all you need", arXiv 1706.03762, section 3.5).
    """
    frames, height, width = grid
    number = torch.arange(frames * height * width, dtype=torch.float64)
    rate = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = number[:, None] * rate
    table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim]
    return table.float().unflatten(0, (frames, height * width)).unsqueeze(0)


def place_block(block: nn.Module, layer: int, num_prefix_tokens: int, grid: tuple[int, int, int]) -> None:
    """Tell the attention in a block its layer and how the tokens of space and time are laid out."""
    for module in block.modules():
        if isinstance(module, AttentionModule):
            module.place(layer, num_prefix_tokens, grid)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    return height, width
