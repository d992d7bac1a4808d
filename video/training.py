"""Training a video classifier with Lightning."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from fibo_robot.training.module import ModelModule, OptimizerConfig
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.dataset import ClipBatch
from fibo_robot.video.transforms import BatchAugmentation


class VideoClassificationModule(ModelModule):
    """Fits a classifier by cross-entropy.

    Args:
        classifier: makes the model when called with `labels`.
        optimizer: optimiser and schedule.
        augmentation: applied to every training batch on the device.
        labels: names of the classes, from the data.
        seed: decides dropout and augmentation.
    """

    def __init__(
        self,
        classifier: Callable[..., VideoClassifier],
        optimizer: OptimizerConfig,
        augmentation: BatchAugmentation,
        labels: Sequence[str],
        seed: int = 0,
    ) -> None:
        super().__init__(classifier(labels=labels), optimizer, seed)
        self.augmentation = augmentation
        classes = len(self.model.labels)
        self.valid_loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.accuracy_top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        self.accuracy_per_class = MulticlassAccuracy(classes, average=None)

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"kind": "classifier", "labels": self.model.labels}

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        clips, targets = self.augmentation(batch["clips"], batch["labels"], len(self.model.labels))
        loss = F.cross_entropy(self.model(clips), targets)
        # Every step and process counts alike, as in the gradient.
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        scores, labels = self.model(batch["clips"]), batch["labels"]
        # Not `log(sync_dist=True)`: it halves an odd number of clips to a whole one over two processes.
        self.valid_loss.update(F.cross_entropy(scores, labels, reduction="none"))
        for metric in (self.accuracy, self.accuracy_top5, self.accuracy_per_class):
            metric.update(scores, labels)

    def on_validation_epoch_end(self) -> None:
        self.log("valid/loss", self.valid_loss.compute())
        self.log("valid/accuracy", self.accuracy.compute())
        if len(self.model.labels) > 10:
            self.log("valid/accuracy_top5", self.accuracy_top5.compute())
        per_class = self.accuracy_per_class.compute()
        self.log("valid/accuracy_class_mean", per_class.mean())
        for metric in (self.valid_loss, self.accuracy, self.accuracy_top5, self.accuracy_per_class):
            metric.reset()
