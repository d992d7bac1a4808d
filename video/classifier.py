"""Classifiers: an encoder, one linear layer and class names; and what inference needs of any for clips."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from fibo_robot.encoders import ImageEncoder, VideoEncoder
from fibo_robot.plugins import register
from fibo_robot.video.inference.views import square_crops
from fibo_robot.video.training.sampling import ClipSampling, Cropping, square_side

Encoder = TypeVar("Encoder", ImageEncoder, VideoEncoder)


class ClipClassifier(nn.Module, ABC):
    """A model that inference can drive: it says how clips are cut for it, and gives one score per class.

    Attributes:
        labels: names of the classes, in the order of the scores.
        sampling: which frames make a clip.
        image_size: S, pixels of the square frames it takes.
        meta: what is known of where it comes from; a checkpoint's meta.json.
        multi_label: whether a clip has any number of labels instead of one.
    """

    labels: list[str]
    sampling: ClipSampling
    image_size: int
    meta: dict[str, Any]
    multi_label: bool = False

    @abstractmethod
    def forward(self, clips: Tensor, /) -> Tensor:
        """Scores `(B, classes)` before the softmax, of uint8 clips `(B, T, 3, S, S)`."""

    @abstractmethod
    def squares(self, picture: np.ndarray, crops: int = 1) -> Tensor:
        """The parts of a picture, uint8 `(H, W, 3)`, that are tested: uint8 `(crops, 3, S, S)`.

        One crop is the middle one; more are spread along the longer side.
        """

    def probabilities(self, scores: Tensor) -> Tensor:
        """What scores `(…, classes)` say: their softmax, or with several labels the sigmoid of each."""
        return scores.sigmoid() if self.multi_label else scores.softmax(-1)


class EncoderClassifier(nn.Module, Generic[Encoder]):
    """An encoder, one linear layer on its pooled features, and the names of its classes.

    Args:
        encoder: makes the encoder when called.
        labels: names of the classes, in the order of the scores.
        dropout: on the pooled features.

    Attributes:
        image_size: S, pixels of the square pictures it takes.
        cropping: how pictures were cut in training; set when it is loaded from a checkpoint.
        meta: the checkpoint's meta.json.

    Raises:
        SamplingError: the encoder takes pictures that are not square.
    """

    def __init__(self, encoder: Callable[[], Encoder], labels: Sequence[str], dropout: float = 0.0) -> None:
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

    def forward(self, inputs: Tensor, /) -> Tensor:
        """Scores `(B, classes)` before the softmax, of what the encoder takes."""
        return self.head(self.dropout(self.encoder(inputs).pooled))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's description of the layers, for layer-wise learning rates: stem, blocks from 0 up, head.

        A block's branch over time learns as the block does, the final norm as the last block.
        """
        inside = r"vit\.(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)"
        with_the_last = (99999,)  # timm's sign for "in the group before"
        return {
            "stem": rf"^encoder\.(?:embed|temporal_embed|{inside})",
            "blocks": [
                (r"^encoder\.(?:vit\.blocks|temporal)\.(\d+)", None),
                (r"^encoder\.vit\.(?:norm|fc_norm)", with_the_last),
            ],
        }


@register
class VideoClassifier(EncoderClassifier[VideoEncoder], ClipClassifier):
    """Clips `(B, T, 3, H, W)` in, one score per class out; see EncoderClassifier and VideoEncoder.

    Attributes:
        sampling: how clips were cut in training; set when it is loaded from a checkpoint.
    """

    def __init__(
        self, encoder: Callable[[], VideoEncoder], labels: Sequence[str], dropout: float = 0.0
    ) -> None:
        super().__init__(encoder, labels, dropout)
        self.sampling = ClipSampling(frames=self.encoder.frames)

    def squares(self, picture: np.ndarray, crops: int = 1) -> Tensor:
        """Squares of `cropping`, cut out and scaled; see :func:`square_crops`."""
        return square_crops(picture, self.cropping, self.image_size, crops)
