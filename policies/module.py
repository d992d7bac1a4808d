"""Training a behaviour-cloning policy with Lightning."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric

from fibo_robot.interfaces import ShapeMeta
from fibo_robot.policies.data.dataset import Batch
from fibo_robot.policies.models.bc import BehaviourCloning
from fibo_robot.training.module import ModelModule, OptimizerConfig


class BehaviourCloningModule(ModelModule):
    """Fits a policy to demonstrations by its own loss.

    Args:
        policy: makes the policy when called with `shape_meta`.
        optimizer: optimiser and schedule.
        shape_meta: from the data.
        statistics: `(samples, D)` tensors that the normaliser is fitted on.
        seed: decides dropout and crops.
    """

    def __init__(
        self,
        policy: Callable[..., BehaviourCloning],
        optimizer: OptimizerConfig,
        shape_meta: ShapeMeta,
        statistics: Mapping[str, Tensor],
        seed: int = 0,
    ) -> None:
        super().__init__(policy(shape_meta=shape_meta), optimizer, seed)
        self.model.normalizer.fit(statistics)
        self.valid_loss = MeanMetric()

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"kind": "policy", "shape_meta": self.model.shape_meta.to_dict()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.model.loss(batch["obs"], batch["actions"], batch["valid"])
        # Every step and process counts alike, as in the gradient.
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.model.loss(batch["obs"], batch["actions"], batch["valid"])
        self.valid_loss.update(loss, weight=len(batch["actions"]))

    def on_validation_epoch_end(self) -> None:
        self.log("valid/loss", self.valid_loss.compute())
        self.valid_loss.reset()
