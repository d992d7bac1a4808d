"""An image classifier: an encoder, one linear layer, and the names of its classes."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fibo_robot.encoders import ImageEncoder
from fibo_robot.plugins import register
from fibo_robot.video.training.module import ClassificationModule
from fibo_robot.video.training.sampling import Cropping, square_side


@register
class ImageClassifier(nn.Module):
    """Images in, one score per class out.

    Args:
        encoder: makes the image encoder when called.
        labels: names of the classes, in the order of the scores.
        dropout: on the pooled features.

    Attributes:
        cropping: how pictures were cut in training; set when it is loaded from a checkpoint.
        meta: the checkpoint's meta.json.
        image_size: pixels of the square images it takes.

    Raises:
        SamplingError: the encoder takes images that are not square.
    """

    def __init__(
        self, encoder: Callable[[], ImageEncoder], labels: Sequence[str], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = encoder()
        self.image_size = square_side(self.encoder.image_size)
        self.labels = list(labels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.embed_dim, len(self.labels))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.cropping = Cropping()
        self.meta: dict[str, Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Scores `(B, classes)` before the softmax, of images `(B, 3, H, W)`; see ImageEncoder."""
        return self.head(self.dropout(self.encoder(images).pooled))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's description of the layers, for layer-wise learning rates: stem, blocks from 0 up, head."""
        with_the_last = (99999,)  # timm's sign for "in the group before"
        return {
            "stem": r"^encoder\.vit\.(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)",
            "blocks": [
                (r"^encoder\.vit\.blocks\.(\d+)", None),
                (r"^encoder\.vit\.(?:norm|fc_norm)", with_the_last),
            ],
        }


class ImageClassificationModule(ClassificationModule[ImageClassifier]):
    """Fits an image classifier by cross-entropy; see :class:`ClassificationModule`."""

    kind = "image_classifier"
    inputs = "images"
