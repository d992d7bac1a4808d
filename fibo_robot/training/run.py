"""One training run: compose the config, build data and model, fit, and leave a checkpoint directory.

The same command run again resumes: the run directory holds the trainer's state, and every batch is a
function of seed and step, so the resumed run computes what an uninterrupted one computes.
"""

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from fibo_robot.attention.swap import angular_cores
from fibo_robot.errors import FiboError
from fibo_robot.training.build import build
from fibo_robot.training.callbacks import CheckpointDirectory, History
from fibo_robot.training.castling import CastlingSchedule
from fibo_robot.training.checkpoint import CONFIG, TRAINER
from fibo_robot.training.config import ConfigError, compose_config, leaves, options_of

# These may differ between a run and its continuation.
FREE_TO_CHANGE = {"logger", "run_dir", "debug"}


def train_from_overrides(overrides: Sequence[str]) -> Path:
    """Train from Hydra overrides; `-m` sweeps with Hydra's launcher. Returns the run directory.

    Raises:
        ConfigError: the config names something unknown or lacks a value.
        FiboError: the data or the model cannot be built.
    """
    if {"-m", "--multirun"} & set(overrides):
        from fibo_robot.training.sweep import sweep

        return sweep(overrides)
    config = compose_config(overrides)
    if config.get("policy") is None and config.get("classifier") is None:
        known = ", ".join(options_of("experiment"))
        raise ConfigError(f"Nothing to train: choose an experiment, e.g. experiment=lift_bc. Known: {known}.")
    return train(config)


def train(config: DictConfig) -> Path:
    """Train what the composed config describes, or continue it where its run directory left off."""
    _quiet_libraries()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    run_dir = Path(config.run_dir)
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value: give {error.full_key}=VALUE.") from error
    _refuse_other_run(run_dir, resolved)
    data = build(config.data)
    data.setup("fit")
    module = build(config.get("policy") or config.classifier, seed=config.seed, **data.model_inputs())
    trainer = _trainer(config, run_dir, resolved, data.meta(), has_castling=any(angular_cores(module)))
    state = run_dir / TRAINER
    done = _epochs_done(state)
    if done >= trainer.max_epochs:
        trainer.print(
            f"{run_dir} is already trained ({done} epochs); give run_dir=NEW_FOLDER to train again",
            flush=True,
        )
        return run_dir
    parameters = sum(p.numel() for p in module.model.parameters()) / 1e6
    beginning = f"resuming after epoch {done}" if done else "starting"
    trainer.print(
        f"{config.name}: {beginning}, {parameters:.2f} M parameters, results in {run_dir}", flush=True
    )
    _fit(trainer, module, data, state if done else None)
    return run_dir


def _refuse_other_run(run_dir: Path, resolved: dict[str, Any]) -> None:
    """An existing run directory may only be continued by the config that made it."""
    if not (run_dir / CONFIG).exists():
        return
    earlier = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    before, now = (
        {key: value for key, value in leaves(config) if key.split(".")[0] not in FREE_TO_CHANGE}
        for config in (earlier, resolved)
    )
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        named = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise FiboError(
            f"{run_dir} holds a run with another config ({named}). "
            "Give run_dir=NEW_FOLDER, or the same config to continue it."
        )


def _epochs_done(state: Path) -> int:
    return torch.load(state, map_location="cpu", weights_only=True)["epoch"] + 1 if state.exists() else 0


def _trainer(
    config: DictConfig, run_dir: Path, resolved: dict[str, Any], meta: dict[str, Any], *, has_castling: bool
) -> pl.Trainer:
    options = dict(resolved["trainer"])
    ours = options.pop("fibo")
    callbacks: list[pl.Callback] = [
        History(run_dir),
        CheckpointDirectory(run_dir, resolved, meta, ours["checkpoint_every_n_epochs"]),
    ]
    if has_castling:
        callbacks.append(CastlingSchedule(ours["castling_end"]))
    if ours["ema_decay"] is not None:
        # Buffers are copied: averaging would wear down a normaliser's statistics by rounding.
        callbacks.append(EMAWeightAveraging(decay=ours["ema_decay"], use_buffers=False))
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        callbacks.append(RichProgressBar(leave=False))
    try:
        return pl.Trainer(
            **options,
            logger=build(config.logger) if config.logger else False,
            callbacks=callbacks,
            default_root_dir=run_dir,
            enable_checkpointing=True,
            enable_progress_bar=on_terminal,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"The trainer's config does not work here: {error}") from error


def _fit(
    trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule, state: Path | None
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit and ignores further ones.
        signal.signal(signal.SIGINT, handler)
        print("interrupted; the same command resumes from the last finished epoch", flush=True)
        raise KeyboardInterrupt from error


def _quiet_libraries() -> None:
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Loaders are fed from memory or sized by the data config; Lightning's advice does not apply.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*The number of training batches.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
