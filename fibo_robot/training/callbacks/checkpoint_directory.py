"""Writing the checkpoint directory while a run goes on."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from fibo_robot.training import checkpoint
from fibo_robot.training.callbacks.cost import TrainingCost
from fibo_robot.training.module import ModelModule


def is_due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Whether the epoch that ends now is an `every_n_epochs`-th or the last, by whichever limit."""
    done = trainer.current_epoch + 1
    last = done == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop
    return done % every_n_epochs == 0 or last


class CheckpointDirectory(Checkpoint):
    """Writes the checkpoint directory at the end of every `every_n_epochs`-th epoch, and of the last.

    `model.safetensors` holds the averaged weights where weight averaging is on: it is written from the
    very state that trainer.ckpt records. The last `keep_last` of them also stay as `checkpoints/epoch_N/`, so
    that a result can be the mean of several: one checkpoint's success is partly the luck of its moment.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        meta: dict[str, Any],
        cost: TrainingCost,
        every_n_epochs: int = 1,
        keep_last: int = 0,
    ) -> None:
        self.directory, self.config, self.meta, self.cost = directory, config, meta, cost
        self.every_n_epochs, self.keep_last = every_n_epochs, keep_last

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not is_due(trainer, self.every_n_epochs):
            return
        done = trainer.current_epoch + 1
        assert isinstance(pl_module, ModelModule)
        partial = self.directory / f".partial-{checkpoint.TRAINER}"
        trainer.save_checkpoint(partial, weights_only=False)  # collective: every rank calls it
        if not trainer.is_global_zero:
            return
        state = torch.load(partial, map_location="cpu", weights_only=True)["state_dict"]
        weights = {
            key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")
        }
        progress = {"epoch": done, "step": trainer.global_step, "cost": self.cost.measured()}
        meta = {**self.meta, **pl_module.checkpoint_meta(), **progress}
        checkpoint.save_checkpoint(self.directory, weights, self.config, meta)
        if self.keep_last:
            kept = checkpoint.epoch_folder(self.directory, done)
            checkpoint.save_checkpoint(kept, weights, self.config, meta)
            for older in checkpoint.kept_checkpoints(self.directory)[: -self.keep_last]:
                shutil.rmtree(older)
        partial.replace(self.directory / checkpoint.TRAINER)
