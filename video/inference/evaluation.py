"""Testing a classifier as papers do: several views and crops of each video, with intervals on the result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_bytes, write_json
from fibo_robot.progress import track
from fibo_robot.statistics import wilson_interval
from fibo_robot.training.checkpoint import state_digest
from fibo_robot.video.classifier import ClipClassifier
from fibo_robot.video.datasets.table import LabelledClip
from fibo_robot.video.inference.predict import view_scores
from fibo_robot.video.inference.views import read_views
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.training.confusion import confusion_image, per_class, per_class_json


@dataclass(frozen=True)
class Rate:
    """A share of videos with its 95 % interval (Wilson's), as if videos were independent of each other."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready dict."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass
class VideoTest:
    """What came out of testing.

    Attributes:
        labels: names of the classes.
        paths: the videos that could be read, by :attr:`LabelledClip.name`.
        targets: `(N,)` class numbers.
        scores: `(N, views * crops, classes)` scores before the softmax.
        failures: path and reason of each video that could not be read; they count in no rate.
        views, crops: how many of each.
        weights: which weights were tested; see :func:`state_digest`.
    """

    labels: list[str]
    paths: list[Path]
    targets: np.ndarray
    scores: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)
    views: int = 1
    crops: int = 1
    weights: str | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """`(N, classes)`: softmax of each view, averaged."""
        return torch.from_numpy(self.scores).softmax(-1).mean(1).numpy()

    def top(self, k: int) -> Rate:
        """Share of videos whose class is among the k most probable."""
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        hits = int((ranked == self.targets[:, None]).any(1).sum())
        return Rate(hits / len(self.targets), *wilson_interval(hits, len(self.targets)))

    @property
    def confusion(self) -> np.ndarray:
        """`(classes, classes)` counts: row the true class, column the predicted one."""
        counts = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        np.add.at(counts, (self.targets, self.probabilities.argmax(1)), 1)
        return counts

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        return {
            "videos": len(self.paths),
            "views": self.views,
            "crops": self.crops,
            "top1": self.top(1).to_dict(),
            "top5": self.top(5).to_dict() if len(self.labels) > 5 else None,
            "per_class": per_class_json(per_class(self.confusion, self.labels)),
            "failures": self.failures,
            "weights": self.weights,
        }

    def save(self, folder: Path) -> None:
        """Write test.json, every video's scores (scores.safetensors, videos.json) and confusion.png."""
        write_json(folder / "test.json", self.to_dict())
        write_json(folder / "videos.json", [str(path) for path in self.paths])
        # Not by safetensors' own writer, whose error on a full disk names no file and is no OSError.
        write_bytes(folder / "scores.safetensors", save({"scores": self.scores, "targets": self.targets}))
        with replace_atomically(folder / "confusion.png") as temporary:
            Image.fromarray(confusion_image(self.confusion, self.labels)).save(temporary)


class _Videos(Dataset[Tensor | FiboError]):
    """The clips by which each video is tested, uint8 `(views * crops, T, 3, S, S)`, or why there are none."""

    def __init__(
        self, classifier: ClipClassifier, clips: Sequence[LabelledClip], views: int, crops: int
    ) -> None:
        self._sampling, self._cut = classifier.sampling, partial(classifier.squares, crops=crops)
        self._clips, self._views = clips, views

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> Tensor | FiboError:
        clip = self._clips[number]
        try:
            return read_views(clip.path, self._sampling, self._cut, self._views, clip.span)
        except FiboError as error:  # raised here, it would reach the main process as a traceback
            return error


def evaluate_videos(
    classifier: ClipClassifier,
    clips: Sequence[LabelledClip],
    *,
    views: int = 1,
    crops: int = 1,
    batch_size: int = 8,
    workers: int = 0,
) -> VideoTest:
    """Classify labelled videos, `views` clips of each and `crops` squares of each clip.

    Args:
        classifier: from `load_classifier`.
        clips: the videos.
        views: clips spread over each video.
        crops: squares spread along the longer side.
        batch_size: squares of clips that the model sees at a time, of one video or several.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        VideoDecodeError: not one of the videos could be read.
    """
    numbers = {label: number for number, label in enumerate(classifier.labels)}
    weights = state_digest(classifier.state_dict())
    result = VideoTest(classifier.labels, [], np.empty(0), np.empty(0), {}, views, crops, weights)
    loader = DataLoader(_Videos(classifier, clips, views, crops), batch_size=None, num_workers=workers)
    targets: list[int] = []
    waiting: list[Tensor] = []
    scores: list[Tensor] = []
    for clip, found in zip(clips, track(loader, "testing", total=len(clips))):
        if isinstance(found, VideoDecodeError):
            result.failures[str(clip.name)] = str(found)
            continue
        if isinstance(found, FiboError):
            raise found
        result.paths.append(clip.name)
        targets.append(numbers[clip.label])
        waiting += found
        while len(waiting) >= batch_size:
            scores.append(view_scores(classifier, torch.stack(waiting[:batch_size])))
            del waiting[:batch_size]
    if waiting:
        scores.append(view_scores(classifier, torch.stack(waiting)))
    if not targets:
        raise VideoDecodeError(
            f"None of {len(clips)} videos could be read; {next(iter(result.failures.values()))}"
        )
    result.targets = np.array(targets)
    result.scores = torch.cat(scores).reshape(len(targets), views * crops, -1).numpy()
    return result
