"""What a classifier is fitted to, and how validation judges it: one label to a clip, or any number."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from fibo_robot.files import write_json
from fibo_robot.statistics import average_precision
from fibo_robot.video.training.confusion import class_table, save_confusion
from fibo_robot.video.training.precision import ClassPrecision, per_class_precision, precision_table


class Objective(nn.Module, ABC):
    """A loss, and what is counted over a validation.

    Args:
        labels: names of the classes, in the order of the scores.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = list(labels)

    @abstractmethod
    def loss(self, scores: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Of scores `(B, classes)` and labels or targets as a batch has them; with `none` `(B,)`."""

    @abstractmethod
    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Count a batch of the validation."""

    @abstractmethod
    def finish(self) -> dict[str, Tensor]:
        """What was measured, by name, over all processes; the next validation begins anew."""

    @abstractmethod
    def show(self, folder: Path, **about: Any) -> tuple[str, np.ndarray | None]:
        """Write what :meth:`finish` counted of each class to `folder`, with `about` in it.

        Returns:
            A Markdown table of the classes, and a picture, uint8 `(H, W, 3)`, where there is one.
        """


class OneLabel(Objective):
    """One label to each example: cross-entropy; accuracies and a confusion matrix."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        classes = len(self.labels)
        self._top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        self._confusion = MulticlassConfusionMatrix(classes)
        self._counts = np.empty(0)

    def loss(self, scores: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        return F.cross_entropy(scores, targets, reduction=reduction)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self._top5.update(scores, labels)
        self._confusion.update(scores, labels)

    def finish(self) -> dict[str, Tensor]:
        counts = self._confusion.compute()
        of_class = counts.sum(1)
        recognised = counts.diagonal()
        found = {
            "accuracy": recognised.sum() / counts.sum(),
            "accuracy_class_mean": (recognised / of_class)[of_class > 0].mean(),
        }
        if len(self.labels) > 10:
            found["accuracy_top5"] = self._top5.compute()
        self._counts = counts.cpu().numpy()
        for metric in (self._top5, self._confusion):
            metric.reset()
        return found

    def show(self, folder: Path, **about: Any) -> tuple[str, np.ndarray]:
        picture = save_confusion(self._counts, self.labels, folder, **about)
        return class_table(self._counts, self.labels), picture


class ManyLabels(Objective):
    """Any number of labels to each example: binary cross-entropy of each class, and average precision.

    Classes that have no positive in the validation are left out of the mean; without any there is none, nor
    of a diverged model, whose scores are no numbers.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self._seen = _ScoresAndTargets()
        self._classes: list[ClassPrecision] = []

    def loss(self, scores: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        of_each = F.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none").mean(1)
        return of_each.mean() if reduction == "mean" else of_each

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self._seen.update(scores.float(), labels)

    def finish(self) -> dict[str, Tensor]:
        # A process that read no clip takes part, too: the others wait for what it has.
        device, classes = self._seen.device, len(self.labels)
        self._seen.update(*torch.zeros(2, 0, classes, device=device))
        scores, targets = (part.cpu().numpy() for part in self._seen.compute())
        self._seen.reset()
        ranked = np.isfinite(scores).all()
        of_class = average_precision(targets, scores) if ranked else np.full(classes, np.nan)
        self._classes = per_class_precision(targets, of_class, self.labels)
        if np.isnan(of_class).all():
            return {}
        mean = float(np.nanmean(of_class))
        return {"mean_average_precision": torch.tensor(mean, dtype=torch.float32, device=device)}

    def show(self, folder: Path, **about: Any) -> tuple[str, None]:
        write_json(
            folder / "per_class.json",
            {**about, "classes": {result.label: result.to_dict() for result in self._classes}},
        )
        return precision_table(self._classes), None


class _ScoresAndTargets(Metric):
    """All scores and targets of a validation, from all processes."""

    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor) -> None:
        self.scores.append(scores)
        self.targets.append(targets)

    def compute(self) -> tuple[Tensor, Tensor]:
        return dim_zero_cat(self.scores), dim_zero_cat(self.targets)
