"""What every encoder does to its input first: check it, and bring its pixels to the trunk's own scale."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn, tensor, uint8

from fibo_robot.errors import FiboError


class EncoderError(FiboError, ValueError):
    """An encoder was asked for something it cannot do; the message names the argument."""


class InputNormalizer(nn.Module):
    """Pixels to zero mean and unit variance, with the mean and standard deviation a trunk was trained with.

    Args:
        vit: says them in its `pretrained_cfg`.
        what: `images` or `clips`, for messages.
        shape: one image or clip without the batch: `(..., 3, H, W)`.
        advice: what to do about another shape, for messages.

    Attributes:
        mean, std: `(3, 1, 1)` buffers, outside the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: VisionTransformer, what: str, shape: tuple[int, ...], advice: str) -> None:
        super().__init__()
        self.what, self.shape, self.advice = what, shape, advice
        for name in ("mean", "std"):
            values = tensor(vit.pretrained_cfg[name]).view(3, 1, 1)  # pyright: ignore[reportIndexIssue, reportArgumentType]: timm's types say Module
            self.register_buffer(name, values, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise `(B, *shape)`, float in [0, 1] or uint8.

        Raises:
            EncoderError: if the shape or dtype does not fit.
        """
        if pixels.ndim != len(self.shape) + 1 or tuple(pixels.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise EncoderError(f"{self.what} must be (B, {wanted}), not {tuple(pixels.shape)}: {self.advice}")
        if pixels.dtype != uint8 and not pixels.is_floating_point():
            raise EncoderError(f"{self.what} must be float in [0, 1] or uint8, not {pixels.dtype}.")
        scaled = pixels.to(self.mean.dtype)  # as wide as the trunk's weights
        if pixels.dtype == uint8:
            scaled = scaled / 255
        return (scaled - self.mean) / self.std
