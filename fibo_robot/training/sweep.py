"""Hydra's multirun: `fibo train -m key=a,b,c ...`, with whichever launcher the config chooses."""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from fibo_robot.training.run import train


def sweep(overrides: Sequence[str]) -> Path:
    """Run every combination of the overrides; each has its own run directory under Hydra's sweep folder."""

    @hydra.main(version_base="1.3", config_path="pkg://fibo_robot.conf", config_name="train")
    def job(config: DictConfig) -> None:
        config.run_dir = hydra.core.hydra_config.HydraConfig.get().runtime.output_dir
        train(config)

    arguments = sys.argv
    try:
        sys.argv = ["fibo train", *overrides]
        job()
    finally:
        sys.argv = arguments
    return Path("multirun")
