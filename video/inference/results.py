"""What came out of testing a classifier on labelled videos, with intervals: one label each, or several."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save

from fibo_robot.files import replace_atomically, write_bytes, write_json
from fibo_robot.statistics import average_precision, mean_average_precision_interval, wilson_interval
from fibo_robot.video.training.confusion import confusion_image, per_class, per_class_json
from fibo_robot.video.training.precision import per_class_precision


@dataclass(frozen=True)
class Rate:
    """A rate over videos with its 95 % interval, as if videos were independent of each other."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready dict."""
        return {"value": self.value, "low": self.low, "high": self.high}


def top_rate(scores: np.ndarray, targets: np.ndarray, k: int) -> Rate:
    """Share of examples whose class is among the k with the highest scores, with Wilson's interval.

    Args:
        scores: `(N, classes)`, or what ascends with them.
        targets: `(N,)` class numbers.
        k: how many classes may be named.
    """
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = int((ranked == targets[:, None]).any(1).sum())
    return Rate(hits / len(targets), *wilson_interval(hits, len(targets)))


@dataclass
class TestedVideos(ABC):
    """What came out of testing; subclasses say what the targets are, and how they are judged.

    Attributes:
        labels: names of the classes.
        paths: the videos that could be read, by :attr:`LabelledClip.name`.
        targets: what is right for each.
        scores: `(N, views * crops, classes)` scores before softmax or sigmoid.
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
    @abstractmethod
    def probabilities(self) -> np.ndarray:
        """`(N, classes)`: of each view, averaged."""

    @abstractmethod
    def rates(self) -> dict[str, Rate | None]:
        """What a paper's table has, by its name in test.json; None where it would say nothing."""

    @abstractmethod
    def per_class(self) -> dict[str, Any]:
        """JSON-ready results by class name."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        rates = {name: None if rate is None else rate.to_dict() for name, rate in self.rates().items()}
        return {
            "videos": len(self.paths),
            "views": self.views,
            "crops": self.crops,
            **rates,
            "per_class": self.per_class(),
            "failures": self.failures,
            "weights": self.weights,
        }

    def save(self, folder: Path) -> None:
        """Write test.json, and every video's scores and targets (scores.safetensors, videos.json)."""
        write_json(folder / "test.json", self.to_dict())
        write_json(folder / "videos.json", [str(path) for path in self.paths])
        # Not by safetensors' own writer, whose error on a full disk names no file and is no OSError.
        write_bytes(folder / "scores.safetensors", save({"scores": self.scores, "targets": self.targets}))


@dataclass
class VideoTest(TestedVideos):
    """Videos with one label each: `targets` are class numbers `(N,)`."""

    @property
    def probabilities(self) -> np.ndarray:
        """`(N, classes)`: softmax of each view, averaged."""
        return torch.from_numpy(self.scores).softmax(-1).mean(1).numpy()

    def top(self, k: int) -> Rate:
        """Share of videos whose class is among the k most probable, with Wilson's interval."""
        return top_rate(self.probabilities, self.targets, k)

    @property
    def confusion(self) -> np.ndarray:
        """`(classes, classes)` counts: row the true class, column the predicted one."""
        counts = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        np.add.at(counts, (self.targets, self.probabilities.argmax(1)), 1)
        return counts

    def rates(self) -> dict[str, Rate | None]:
        return {"top1": self.top(1), "top5": self.top(5) if len(self.labels) > 5 else None}

    def per_class(self) -> dict[str, Any]:
        return per_class_json(per_class(self.confusion, self.labels))

    def save(self, folder: Path) -> None:
        """What every test has, and confusion.png."""
        super().save(folder)
        with replace_atomically(folder / "confusion.png") as temporary:
            Image.fromarray(confusion_image(self.confusion, self.labels)).save(temporary)


@dataclass
class MultiLabelTest(TestedVideos):
    """Videos with any number of labels: `targets` are zeros and ones `(N, classes)`.

    Classes that no video has are in no mean; their average precision is None.
    """

    @property
    def probabilities(self) -> np.ndarray:
        """`(N, classes)`: sigmoid of each view, averaged."""
        return torch.from_numpy(self.scores).sigmoid().mean(1).numpy()

    @cached_property
    def average_precision(self) -> np.ndarray:
        """`(classes,)`; NaN where no video has the class."""
        return average_precision(self.targets, self.probabilities)

    def rates(self) -> dict[str, Rate | None]:
        """Mean average precision, with a bootstrap interval over videos."""
        if not self.targets.any():
            return {"mean_average_precision": None}
        interval = mean_average_precision_interval(self.targets, self.probabilities)
        return {"mean_average_precision": Rate(float(np.nanmean(self.average_precision)), *interval)}

    def per_class(self) -> dict[str, Any]:
        results = per_class_precision(self.targets, self.average_precision, self.labels)
        return {result.label: result.to_dict() for result in results}
