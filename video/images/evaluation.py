"""Testing an image classifier on labelled pictures, with intervals on the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fibo_robot.files import write_json
from fibo_robot.progress import track
from fibo_robot.training.checkpoint import state_digest
from fibo_robot.video.images.classifier import ImageClassifier
from fibo_robot.video.images.dataset import ImageDataset, collate_images
from fibo_robot.video.images.predict import image_scores
from fibo_robot.video.images.table import PictureSet
from fibo_robot.video.inference.results import Rate, top_rate

BATCH = 256


@dataclass(frozen=True)
class PictureTest:
    """What came out of testing.

    Attributes:
        labels: names of the classes.
        names: how the pictures are called.
        targets: `(N,)` class numbers.
        scores: `(N, classes)` scores before the softmax.
        weights: which weights were tested; see :func:`state_digest`.
    """

    labels: list[str]
    names: list[str]
    targets: np.ndarray
    scores: np.ndarray
    weights: str | None = None

    @property
    def correct(self) -> np.ndarray:
        """bool `(N,)`: whether the most probable class is the right one."""
        return self.scores.argmax(1) == self.targets

    def top(self, k: int) -> Rate:
        """Share of pictures whose class is among the k most probable, with Wilson's 95 % interval."""
        return top_rate(self.scores, self.targets, k)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        of_class = {
            label: float(self.correct[self.targets == number].mean())
            for number, label in enumerate(self.labels)
            if (self.targets == number).any()
        }
        return {
            "pictures": len(self.names),
            "top1": self.top(1).to_dict(),
            "top5": self.top(5).to_dict() if len(self.labels) > 5 else None,
            "accuracy_of_class": of_class,
            "weights": self.weights,
        }

    def save(self, folder: Path) -> None:
        """Write test.json, and every picture's name, class and predicted class to pictures.json."""
        write_json(folder / "test.json", self.to_dict())
        predicted = self.scores.argmax(1)
        rows = [
            {"name": name, "label": self.labels[target], "predicted": self.labels[guess]}
            for name, target, guess in zip(self.names, self.targets, predicted)
        ]
        write_json(folder / "pictures.json", rows)


def evaluate_pictures(classifier: ImageClassifier, pictures: PictureSet) -> PictureTest:
    """Classify labelled pictures, the middle square of each.

    Raises:
        PictureError: one of them cannot be read.
        FiboError: the model's scores are no numbers.
    """
    data = ImageDataset(pictures, classifier.cropping, classifier.image_size, training=False)
    scores = []
    for start in track(range(0, len(data), BATCH), "testing"):
        items = [data[index, 0] for index in range(start, min(start + BATCH, len(data)))]
        scores.append(image_scores(classifier, collate_images(items)["images"]))
    return PictureTest(
        classifier.labels,
        list(pictures.names),
        pictures.targets,
        torch.cat(scores).numpy(),
        state_digest(classifier.state_dict()),
    )
