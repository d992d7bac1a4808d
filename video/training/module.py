"""Training a classifier of clips or images with Lightning."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from fibo_robot.training.module import ModelModule, OptimizerConfig
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.training.augmentation import BatchAugmentation
from fibo_robot.video.training.confusion import class_table, save_confusion

VALIDATION = "validation"  # folder in the run directory


Classifier = TypeVar("Classifier", bound=nn.Module)


class ClassificationModule(ModelModule[Classifier]):
    """Fits a classifier by cross-entropy. Subclasses say what it takes.

    Args:
        classifier: makes the model when called with `labels`.
        optimizer: optimiser and schedule.
        augmentation: applied to every training batch on the device.
        labels: names of the classes, from the data.
        seed: decides dropout and augmentation.

    Attributes:
        kind: what a checkpoint calls the model.
        inputs: the batch's entry that the model takes; `labels` stands beside it.
    """

    kind: ClassVar[str]
    inputs: ClassVar[str]

    def __init__(
        self,
        classifier: Callable[..., Classifier],
        optimizer: OptimizerConfig,
        augmentation: BatchAugmentation,
        labels: Sequence[str],
        seed: int = 0,
    ) -> None:
        model = classifier(labels=labels)
        super().__init__(model, optimizer, seed)
        self.augmentation = augmentation
        self.labels = list(labels)
        classes = len(self.labels)
        self.valid_loss = MeanMetric()
        self.accuracy_top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))
        self.confusion = MulticlassConfusionMatrix(classes)

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": self.labels}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        inputs, targets = self.augmentation(batch[self.inputs], batch["labels"], len(self.labels))
        loss = F.cross_entropy(self.model(inputs), targets)
        # Every step and process counts alike, as in the gradient.
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if not len(batch["labels"]):  # not one of its clips could be read
            return
        scores, labels = self.model(batch[self.inputs]), batch["labels"]
        # Not `log(sync_dist=True)`: it halves an odd number of clips to a whole one over two processes.
        self.valid_loss.update(F.cross_entropy(scores, labels, reduction="none"))
        self.accuracy_top5.update(scores, labels)
        self.confusion.update(scores, labels)

    def on_validation_epoch_end(self) -> None:
        counts = self.confusion.compute()
        of_class = counts.sum(1)
        recognised = counts.diagonal()
        self.log("valid/loss", self.valid_loss.compute())
        self.log("valid/accuracy", recognised.sum() / counts.sum())
        self.log("valid/accuracy_class_mean", (recognised / of_class)[of_class > 0].mean())
        if len(self.labels) > 10:
            self.log("valid/accuracy_top5", self.accuracy_top5.compute())
        for metric in (self.valid_loss, self.accuracy_top5, self.confusion):
            metric.reset()
        if self.trainer.is_global_zero:
            self._show_classes(counts.cpu().numpy())

    def _show_classes(self, counts: np.ndarray) -> None:
        """Confusion matrix and accuracy of each class: into the run directory and to TensorBoard."""
        labels, step = self.labels, self.global_step
        folder = Path(self.trainer.default_root_dir) / VALIDATION
        picture = save_confusion(counts, labels, folder, epoch=self.current_epoch + 1, step=step)
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("valid/confusion", picture, step, dataformats="HWC")
                logger.experiment.add_text("valid/classes", class_table(counts, labels), step)


class VideoClassificationModule(ClassificationModule[VideoClassifier]):
    """Fits a video classifier by cross-entropy; see :class:`ClassificationModule`."""

    kind = "classifier"
    inputs = "clips"
