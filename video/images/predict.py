"""From a checkpoint and pictures to labels with probabilities."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fibo_robot.training.rebuild import load_model
from fibo_robot.video.images.classifier import ImageClassificationModule, ImageClassifier
from fibo_robot.video.images.table import PictureError, read_picture
from fibo_robot.video.inference.predict import Prediction, best_scores, finite
from fibo_robot.video.training.clips import crop_and_resize
from fibo_robot.video.training.sampling import Cropping


def load_image_classifier(checkpoint_dir: str | Path, device: str | torch.device = "cpu") -> ImageClassifier:
    """The image classifier in `checkpoint_dir`, in evaluation mode on `device`.

    Its `.labels` are the names of its classes, `.cropping` says how pictures were cut for it, and `.meta` is
    the meta.json.

    Raises:
        CheckpointError: the directory is not a complete image classifier, or its weights do not fit.
    """
    classifier, checkpoint = load_model(
        checkpoint_dir,
        ImageClassificationModule.kind,
        "classifier.classifier",
        ImageClassifier,
        {"labels": lambda meta: meta["labels"]},
    )
    classifier.meta = checkpoint.meta
    classifier.cropping = Cropping(**checkpoint.meta["cropping"])
    return classifier.to(device)


@torch.inference_mode()
def image_scores(classifier: ImageClassifier, images: Tensor) -> Tensor:
    """Scores `(B, classes)` before the softmax, on the CPU, of images `(B, 3, S, S)`.

    Raises:
        FiboError: they are no finite numbers.
    """
    device = next(classifier.parameters()).device
    return finite(classifier(images.to(device)).float().cpu())


def classify_pictures(
    classifier: ImageClassifier, paths: Iterable[Path | str], *, top_k: int = 5
) -> Iterator[Prediction]:
    """Classify pictures one by one; what cannot be read gives a prediction with an error, not an exception.

    Args:
        classifier: from :func:`load_image_classifier`.
        paths: files.
        top_k: how many classes to name.
    """
    for path in paths:
        try:
            picture = read_picture(Path(path), str(path))
        except PictureError as error:
            yield Prediction(str(path), (), str(error))
            continue
        box = classifier.cropping.test(*picture.shape[-2:])[0]
        image = crop_and_resize(picture, box, classifier.image_size)
        scores = image_scores(classifier, image[None])
        yield Prediction(str(path), best_scores(classifier.labels, scores.softmax(-1), top_k))
