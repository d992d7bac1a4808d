"""An image classifier: an encoder, one linear layer, and the names of its classes."""

from fibo_robot.encoders import ImageEncoder
from fibo_robot.plugins import register
from fibo_robot.video.classifier import EncoderClassifier
from fibo_robot.video.training.module import ClassificationModule


@register
class ImageClassifier(EncoderClassifier[ImageEncoder]):
    """Images `(B, 3, H, W)` in, one score per class out; see EncoderClassifier and ImageEncoder."""


class ImageClassificationModule(ClassificationModule[ImageClassifier]):
    """Fits an image classifier by cross-entropy; see :class:`ClassificationModule`."""

    kind = "image_classifier"
    inputs = "images"
