"""Training a classifier of clips or images with Lightning."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torchmetrics import MeanMetric

from fibo_robot.training.module import ModelModule, OptimizerConfig
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.training.augmentation import BatchAugmentation
from fibo_robot.video.training.objectives import ManyLabels, OneLabel

VALIDATION = "validation"  # folder in the run directory


Classifier = TypeVar("Classifier", bound=nn.Module)


class ClassificationModule(ModelModule[Classifier]):
    """Fits a classifier by cross-entropy, of several labels by that of each. Subclasses say what it takes.

    Args:
        classifier: makes the model when called with `labels`.
        optimizer: optimiser and schedule.
        augmentation: applied to every training batch on the device.
        labels: names of the classes, from the data.
        seed: decides dropout and augmentation.
        multi_label: each example has any number of labels, from the data.

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
        multi_label: bool = False,
    ) -> None:
        model = classifier(labels=labels)
        super().__init__(model, optimizer, seed)
        self.augmentation = augmentation
        self.labels = list(labels)
        self.multi_label = multi_label
        self.valid_loss = MeanMetric()
        self.objective = (ManyLabels if multi_label else OneLabel)(self.labels)

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": self.labels, "multi_label": self.multi_label}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        inputs, targets = self.augmentation(batch[self.inputs], batch["labels"], len(self.labels))
        loss = self.objective.loss(self.model(inputs), targets)
        # Every step and process counts alike, as in the gradient.
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if not len(batch["labels"]):  # not one of its clips could be read
            return
        scores, labels = self.model(batch[self.inputs]), batch["labels"]
        # Not `log(sync_dist=True)`: it halves an odd number of clips to a whole one over two processes.
        self.valid_loss.update(self.objective.loss(scores, labels, reduction="none"))
        self.objective.update(scores, labels)

    def on_validation_epoch_end(self) -> None:
        self.log("valid/loss", self.valid_loss.compute())
        self.valid_loss.reset()
        for name, value in self.objective.finish().items():
            self.log(f"valid/{name}", value)
        if self.trainer.is_global_zero:
            self._show_classes()

    def _show_classes(self) -> None:
        """What became of each class: into the run directory and to TensorBoard."""
        step, folder = self.global_step, Path(self.trainer.default_root_dir) / VALIDATION
        table, picture = self.objective.show(folder, epoch=self.current_epoch + 1, step=step)
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                if picture is not None:
                    logger.experiment.add_image("valid/confusion", picture, step, dataformats="HWC")
                logger.experiment.add_text("valid/classes", table, step)


class VideoClassificationModule(ClassificationModule[VideoClassifier]):
    """Fits a video classifier by cross-entropy; see :class:`ClassificationModule`."""

    kind = "classifier"
    inputs = "clips"
