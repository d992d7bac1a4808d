"""The moving average of the weights, which a run validates and saves."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fibo_robot.training.config import ConfigError


def ema_decay_at(step: int, decay: float) -> float:
    """Weight of the old average at the 0-based optimiser step: `min(decay, (1 + step) / (10 + step))`.

    The formula of diffusers' `EMAModel` (and of TensorFlow's before it). With a constant decay of 0.999 the
    weights of the first step still make up a third of the average a thousand steps later.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage(WeightAveraging):
    """Lightning's weight averaging with an exponential decay that warms up by :func:`ema_decay_at`.

    Buffers are copied: averaging would wear down a normaliser's statistics by rounding.

    Args:
        decay: reached after warming up, in [0, 1).

    Raises:
        ConfigError: for a `decay` outside.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"trainer.ema_decay must lie in [0, 1), or be null for none, not {decay}.")
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        get_ema_multi_avg_fn(ema_decay_at(int(updates), self.decay))(averaged, current, updates)

    @property
    def average(self) -> nn.Module | None:
        """The training module with averaged weights; None before training."""
        return None if self._average_model is None else self._average_model.module


def module_to_save(trainer: pl.Trainer, module: pl.LightningModule) -> nn.Module:
    """The training module whose weights a checkpoint written now would hold: averaged where there is one."""
    callbacks: list[pl.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    averages = (callback.average for callback in callbacks if isinstance(callback, MovingAverage))
    return next((average for average in averages if average is not None), module)
