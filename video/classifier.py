"""A video classifier: an encoder, one linear layer, and the names of its classes."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fibo_robot.encoders import VideoEncoder
from fibo_robot.plugins import register
from fibo_robot.video.training.sampling import ClipSampling, Cropping, square_side


@register
class VideoClassifier(nn.Module):
    """Clips in, one score per class out.

    Args:
        encoder: makes the video encoder when called.
        labels: names of the classes, in the order of the scores.
        dropout: on the pooled features.

    Attributes:
        sampling, cropping: how clips were cut in training; set when it is loaded from a checkpoint.
        meta: the checkpoint's meta.json.
        image_size: pixels of the square frames it takes.

    Raises:
        SamplingError: the encoder takes frames that are not square.
    """

    def __init__(
        self, encoder: Callable[[], VideoEncoder], labels: Sequence[str], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = encoder()
        self.image_size = square_side(self.encoder.image_size)
        self.labels = list(labels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.embed_dim, len(self.labels))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.sampling = ClipSampling(frames=self.encoder.frames)
        self.cropping = Cropping()
        self.meta: dict[str, Any] = {}

    def forward(self, clips: Tensor) -> Tensor:
        """Scores `(B, classes)` before the softmax, of clips `(B, T, 3, H, W)`; see VideoEncoder."""
        return self.head(self.dropout(self.encoder(clips).pooled))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's description of the layers, for layer-wise learning rates: stem, blocks from 0 up, head.

        A block's branch over time learns as the block does, the final norm as the last block.
        """
        trunk = r"^encoder\.(?:embed|temporal_embed|vit\.(?:cls_token|reg_token|pos_embed|norm_pre))"
        blocks = r"^encoder\.(?:vit\.blocks|temporal)\.(\d+)"
        with_the_last = (99999,)  # timm's sign for "in the group before"
        return {
            "stem": trunk,
            "blocks": [(blocks, None), (r"^encoder\.vit\.(?:norm|fc_norm)", with_the_last)],
        }
