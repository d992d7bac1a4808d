"""Training a policy by behaviour cloning with Lightning."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics import MeanMetric

from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.policies.data.dataset import Batch
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.training.module import ModelModule, OptimizerConfig

# Samples of each camera that TensorBoard is shown.
_SHOWN = 8
# torch's distributions do not take what is no number, and say so in these words.
OF_NO_NUMBERS = "found invalid values"


class WindowError(FiboError):
    """A policy is given samples that hold other observations than it trains on."""


class DivergedError(FiboError):
    """Training has led to weights that are no numbers."""


class BehaviourCloningModule(ModelModule[ChunkPolicy]):
    """Fits a policy to demonstrations by its own loss.

    Args:
        policy: makes the policy when called with `shape_meta`.
        optimizer: optimiser and schedule.
        shape_meta: from the data.
        statistics: `(samples, D)` tensors that the normaliser is fitted on.
        seed: decides dropout and crops.
        window: which observations the data's samples hold.

    Raises:
        WindowError: the policy trains on another window.
        DivergedError: while training, weights or outputs that are not finite.
    """

    entrances = ("loss",)

    def __init__(
        self,
        policy: Callable[..., ChunkPolicy],
        optimizer: OptimizerConfig,
        shape_meta: ShapeMeta,
        statistics: Mapping[str, Tensor],
        seed: int = 0,
        window: Window = "past",
    ) -> None:
        super().__init__(policy(shape_meta=shape_meta), optimizer, seed)
        if self.model.window != window:
            raise WindowError(
                f"{type(self.model).__name__} trains on samples of the window {self.model.window}, not "
                f"{window}: set data.window={self.model.window}."
            )
        self.model.fit_normalizer(statistics)
        self.valid_loss = MeanMetric()

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"kind": "policy", "shape_meta": self.model.shape_meta.to_dict()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        if self.global_step == 0 and batch_idx == 0:
            self._show_pictures(batch["obs"])
        # Every step and process counts alike, as in the gradient.
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # Once an epoch, before its checkpoint takes the place of a good one.
        if self.trainer.is_last_batch and not outputs["loss"].isfinite():
            self._refuse_divergence()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self._loss(batch)
        self.valid_loss.update(loss, weight=len(batch["actions"]))

    def _loss(self, batch: Batch) -> Tensor:
        try:
            return self.model.loss(batch["obs"], batch["actions"], batch["valid"])
        except ValueError as error:
            self._refuse_divergence()
            if OF_NO_NUMBERS in str(error):  # weights are finite, but too large for a pass
                raise self._diverged("outputs") from error
            raise

    def _refuse_divergence(self) -> None:
        """Say that training diverged, if it did; a step that mixed precision skips is nothing of that."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._diverged("weights")

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"Training diverged in epoch {self.current_epoch + 1}: {what} are no longer finite. The run "
            "directory has the last epoch that was saved. Train with a smaller optimizer.lr, or with "
            "trainer.gradient_clip_val, in a new run_dir."
        )

    def on_validation_epoch_end(self) -> None:
        self.log("valid/loss", self.valid_loss.compute())
        self.valid_loss.reset()

    @torch.no_grad()
    def _show_pictures(self, obs: Mapping[str, Tensor]) -> None:
        """Give TensorBoard some samples' latest picture of each camera, as the encoder is shown it."""
        boards = [logger.experiment for logger in self.loggers if isinstance(logger, TensorBoardLogger)]
        for key in self.model.shape_meta.keys("rgb") if boards else []:
            with torch.random.fork_rng():  # training draws what it would draw without a logger
                shown = self.model.observation.augmented(obs[key][:_SHOWN])[:, -1]
            for board in boards:
                board.add_images(f"seen/{key}", shown, self.global_step)
