"""The LightningModule that policies and classifiers share: optimiser, schedule, reproducible steps."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import timm.optim
import torch
from diffusers.optimization import get_scheduler
from torch import nn

from fibo_robot.errors import FiboError, did_you_mean
from fibo_robot.training.sampler import derived_seed


class OptimizerError(FiboError):
    """An optimiser's name or setting is not known."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and learning-rate schedule.

    Attributes:
        name: any optimiser that timm knows (`adamw`, `sgd`, `lamb`, ...).
        lr: peak learning rate.
        weight_decay: not applied to biases, norms and position embeddings.
        betas: for Adam-like optimisers; None leaves the optimiser's own.
        momentum: for SGD-like optimisers.
        warmup_steps: linear warm-up.
        schedule: any schedule diffusers knows (`cosine`, `constant_with_warmup`, `linear`, ...).
        layer_decay: factor on the learning rate per layer below the head, as timm defines it; None is off.
    """

    name: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 1e-6
    betas: tuple[float, float] | None = None
    momentum: float = 0.9
    warmup_steps: int = 0
    schedule: str = "cosine"
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        if self.name not in timm.optim.list_optimizers():
            raise OptimizerError(
                f"There is no optimizer named '{self.name}'. "
                f"{did_you_mean(self.name, timm.optim.list_optimizers())}"
            )


class ModelModule(pl.LightningModule):
    """Base of all training modules.

    `self.model` is what the checkpoint directory keeps; anything else a subclass holds is for training.
    Subclasses write `training_step` and, if they validate, `validation_step`.
    """

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.optimizer_config = optimizer
        self.seed = seed
        self._batch_seed = seed

    def checkpoint_meta(self) -> dict[str, Any]:
        """What must go into meta.json so that the model can be rebuilt; JSON-ready."""
        raise NotImplementedError

    def step_generator(self) -> torch.Generator:
        """A generator on the model's device that depends on seed, epoch, batch and rank alone."""
        return torch.Generator(device=self.device).manual_seed(self._batch_seed)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._batch_seed = derived_seed(self.seed, self.trainer.current_epoch, batch_idx, self.global_rank)
        # Dropout draws from the global generator; seeding it by batch makes a resumed run repeat it.
        torch.manual_seed(self._batch_seed)

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.optimizer_config
        options: dict[str, Any] = {} if config.betas is None else {"betas": tuple(config.betas)}
        optimizer = timm.optim.create_optimizer_v2(
            self.model,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **options,
        )
        scheduler = get_scheduler(
            config.schedule,
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
