"""The schedule that takes Castling's training branch to exactly 0 before training ends.

While the branch fades, the network learns to do without it; after the end of the schedule, switching it off
(`fibo_robot.attention.castle`) changes nothing.
"""

import math
from typing import Any

import lightning.pytorch as pl
import torch

from fibo_robot.attention.errors import AttentionError
from fibo_robot.attention.swap import angular_cores


def branch_scale_at(progress: float, end: float) -> float:
    """Scale of the branch: 1 at the start of training, falling linearly to exactly 0 at `end`.

    Args:
        progress: share of training done, in [0, 1].
        end: share of training at which the schedule ends, in [0, 1]; 0 is without the branch from the start.
    """
    if end == 0:
        return 0.0
    return max(0.0, 1.0 - progress / end)


class CastlingSchedule(pl.Callback):
    """Scales every Castling branch of the model by :func:`branch_scale_at` of the optimiser's step.

    The scale follows from the global step alone, so a resumed run continues it. It is set when a step begins
    and again when it ends: what is averaged and saved after the last step has reached the schedule's end.
    Logs `castling/branch_scale` and `castling/mass_passed`: the share of softmax mass that the branches'
    masks pass, mean over layers, whatever the scale; NaN once the branches are off and nobody computes it.

    Args:
        end: share of training at which the branches reach 0; at 0 they are never on.

    Raises:
        AttentionError: if `end` lies outside [0, 1], or the model has no Castling attention.
    """

    def __init__(self, end: float = 0.75) -> None:
        if not 0 <= end <= 1:
            raise AttentionError(f"end must lie in [0, 1], not {end}.")
        self.end = end

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not any(angular_cores(pl_module)):
            raise AttentionError("CastlingSchedule needs a model with Castling attention.")
        if math.isinf(trainer.estimated_stepping_batches):
            raise AttentionError(
                "CastlingSchedule needs a known end of training: set max_epochs or max_steps."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._set(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        cores = [core for _, core in angular_cores(pl_module)]
        pl_module.log("castling/branch_scale", cores[0].branch_scale.clone())
        passed = torch.stack([core.mass_passed for core in cores]).mean()
        # A metric that is no longer logged would keep its last value.
        pl_module.log("castling/mass_passed", passed if cores[0].branch_enabled else float("nan"))
        # Already now: after the last step this is the schedule's end, in whatever is averaged and saved then.
        self._set(trainer, pl_module)

    def _set(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scale = branch_scale_at(trainer.global_step / trainer.estimated_stepping_batches, self.end)
        for _, core in angular_cores(pl_module):
            core.set_branch_scale(scale)
