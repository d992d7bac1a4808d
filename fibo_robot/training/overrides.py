"""Training from Hydra's overrides, as the command gets them."""

from collections.abc import Sequence
from pathlib import Path

from fibo_robot.training.config import compose_config


def train_from_overrides(overrides: Sequence[str]) -> Path:
    """Train from Hydra overrides; `-m` sweeps with Hydra's launcher. Returns the run directory.

    The trainer is imported once the config is composed: that takes seconds, and a mistake is told before.

    Raises:
        ConfigError: the config names something unknown or lacks a value.
        FiboError: the data or the model cannot be built.
    """
    if {"-m", "--multirun"} & set(overrides):
        from fibo_robot.training.sweep import sweep

        return sweep(overrides)
    config = compose_config(overrides)
    from fibo_robot.training.run import train

    return train(config)
