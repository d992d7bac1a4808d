"""Image encoders: a timm ViT with any of our attentions, images in, tokens and a pooled vector out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fibo_robot.attention import AttentionConfig, swap_attention
from fibo_robot.encoders.normalise import EncoderError, InputNormalizer
from fibo_robot.encoders.weights import WeightsError, WeightsReport, load_weights
from fibo_robot.errors import did_you_mean

Pool = Literal["token", "avg"]


@dataclass(frozen=True)
class Preset:
    """A small ViT of ours, for 84-pixel policies and for work on a CPU."""

    embed_dim: int
    depth: int
    num_heads: int
    image_size: int = 84
    patch_size: int = 12  # 7 x 7 patches of an 84-pixel camera image


PRESETS: dict[str, Preset] = {
    "vit_micro": Preset(embed_dim=128, depth=4, num_heads=4),
    "vit_mini": Preset(embed_dim=192, depth=6, num_heads=6),
}


class EncoderOutput(NamedTuple):
    """What an encoder returns.

    Attributes:
        tokens: `(B, N, D)`, prefix tokens first.
        pooled: `(B, D)`.
    """

    tokens: Tensor
    pooled: Tensor


class ImageEncoder(nn.Module):
    """A ViT that normalises its own input.

    Attributes:
        normalise: checks the images and brings them to the trunk's scale.
        vit: the timm model, without a classifier head.
        attention: which attention it has, with every option.
        image_size: (H, W) of the images it takes.
        embed_dim: D, the width of tokens.
        grid_size: patches along height and width.
        num_patches: patches per image.
        num_prefix_tokens: tokens before the first patch.
        weights_report: what became of the pretrained weights' keys; None when none were loaded from a file.
    """

    def __init__(self, vit: VisionTransformer, attention: AttentionConfig) -> None:
        super().__init__()
        self.attention = attention
        self.image_size, self.grid_size = image_and_grid_size(vit)
        self.normalise = InputNormalizer(
            vit,
            "images",
            (3, *self.image_size),
            "resize or crop them, or create the encoder with another image_size.",
        )
        self.vit = vit
        self.embed_dim: int = vit.embed_dim
        self.num_patches: int = vit.patch_embed.num_patches
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.weights_report: WeightsReport | None = None

    def forward(self, images: Tensor) -> EncoderOutput:
        """Encode `(B, 3, H, W)`, float in [0, 1] or uint8, of the encoder's own image size.

        Raises:
            EncoderError: if the shape or dtype does not fit.
        """
        tokens = self.vit.forward_features(self.normalise(images))
        return EncoderOutput(tokens, self.vit.forward_head(tokens, pre_logits=True))


def create_encoder(
    name: str,
    *,
    attention: str | Mapping[str, Any] = "softmax",
    pretrained: bool | str | Path = False,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    pool: Pool | None = None,
    drop_path_rate: float = 0.0,
) -> ImageEncoder:
    """Build an image encoder.

    Args:
        name: one of :data:`PRESETS`, or any timm VisionTransformer, as `vit_small_patch14_dinov2`.
        attention: name, or mapping with options, as `{"name": "fibottention", "rule": "modified"}`.
        pretrained: path of a local safetensors file in timm's layout, or True for timm's own weights
            (downloaded from the Hugging Face Hub).
        image_size: pixels, square or (height, width); the model's own when None.
        patch_size: pixels per patch side; the model's own when None.
        pool: `token` (class token) or `avg` (mean of the patch tokens); the model's own when None.
        drop_path_rate: stochastic depth of the deepest layer in training.

    Raises:
        EncoderError: for an unknown name, a model that is no plain ViT, or a size or pooling it cannot have.
        AttentionError: for an unknown attention or option.
        WeightsError: if pretrained weights cannot be loaded.
    """
    config = AttentionConfig.parse(attention)
    if pool is not None and pool not in get_args(Pool):
        raise EncoderError(f"pool must be one of {', '.join(get_args(Pool))}, not {pool!r}.")
    for option, size in (("image_size", image_size), ("patch_size", patch_size)):
        if size is not None and min(size if isinstance(size, Sequence) else (size,)) < 1:
            raise EncoderError(f"{option} must be at least 1 pixel, not {size}.")
    model_name, arguments = name, {}
    if name in PRESETS:
        preset = PRESETS[name]
        if pretrained is True:
            raise WeightsError(f"{name} is our own preset and has no published weights: pass a file instead.")
        model_name = "vit_tiny_patch16_224"
        # The final norm stays on the tokens, so that they and their mean are on one scale.
        arguments = {
            "embed_dim": preset.embed_dim,
            "depth": preset.depth,
            "num_heads": preset.num_heads,
            "fc_norm": False,
        }
        image_size = image_size or preset.image_size
        patch_size = patch_size or preset.patch_size
        pool = pool or "avg"
    given = {"img_size": image_size, "patch_size": patch_size, "global_pool": pool}
    arguments |= {key: value for key, value in given.items() if value is not None}
    vit = _create_vit(
        model_name, pretrained is True, num_classes=0, drop_path_rate=drop_path_rate, **arguments
    )
    size, grid = image_and_grid_size(vit)
    if min(grid) < 1:
        raise EncoderError(f"Images of {size} pixels hold no patch of {vit.patch_embed.patch_size}.")
    swap_attention(vit, config)
    encoder = ImageEncoder(vit, config)
    if not isinstance(pretrained, bool):
        encoder.weights_report = load_weights(vit, pretrained)
    return encoder


def image_and_grid_size(vit: VisionTransformer) -> tuple[tuple[int, int], tuple[int, int]]:
    """A trunk's images in pixels, and its patches along their height and width."""
    (height, width), (rows, columns) = vit.patch_embed.img_size, vit.patch_embed.grid_size
    return (int(height), int(width)), (int(rows), int(columns))


def _create_vit(name: str, pretrained: bool, **arguments: Any) -> VisionTransformer:
    if not timm.is_model(name):
        hint = did_you_mean(name, [*PRESETS, *timm.list_models("*vit*")])
        raise EncoderError(f"There is no encoder named {name!r}. {hint or did_you_mean(name, PRESETS)}")
    try:
        vit = timm.create_model(name, pretrained=pretrained, **arguments)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise WeightsError(f"Pretrained weights of {name} could not be loaded: {error}") from error
    except TypeError as error:
        raise EncoderError(f"{name} is no plain ViT ({error}).") from error
    except AssertionError as error:
        raise EncoderError(f"{name} cannot be built with these options: {error}") from error
    if not isinstance(vit, VisionTransformer):
        raise EncoderError(
            f"{name} is a {type(vit).__name__}; encoders take timm's VisionTransformer models."
        )
    return vit
