"""One training run: build data and model from the composed config, fit, and leave a checkpoint directory.

The same command run again resumes: the run directory holds the trainer's state, and every batch is a
function of seed and step, so the resumed run computes what an uninterrupted one computes.
"""

import logging
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from fibo_robot.attention.swapping.swap import angular_cores
from fibo_robot.extras import require
from fibo_robot.processes import only_writer
from fibo_robot.training.build import build
from fibo_robot.training.callbacks.averaging import MovingAverage
from fibo_robot.training.callbacks.castling import CastlingSchedule
from fibo_robot.training.callbacks.checkpoint_directory import CheckpointDirectory
from fibo_robot.training.callbacks.cost import TrainingCost
from fibo_robot.training.callbacks.history import History
from fibo_robot.training.callbacks.interruption import Interruption
from fibo_robot.training.checkpoint import TRAINER
from fibo_robot.training.config import ConfigError, check_settings, options_of
from fibo_robot.training.module import ModelModule
from fibo_robot.training.resume import epochs_done, refuse_other_config, refuse_other_data
from fibo_robot.training.sharding import FSDP2

WANDB_LOGGER = "lightning.pytorch.loggers.WandbLogger"


def train(config: DictConfig) -> Path:
    """Train what the composed config describes, or continue it where its run directory left off.

    Raises:
        ConfigError: the config describes nothing to train, lacks a value, or has one that cannot work.
        ResumeError: the run directory holds another run.
        BusyError: another process is training in the run directory.
        FiboError: the data or the model cannot be built.
    """
    if config.get("policy") is None and config.get("classifier") is None:
        known = ", ".join(options_of("experiment"))
        raise ConfigError(f"Nothing to train: choose an experiment, e.g. experiment=lift_bc. Known: {known}.")
    check_settings(config)
    _quiet_libraries()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    run_dir = Path(config.run_dir)
    resolved = _resolved(config)
    refuse_other_config(run_dir, resolved)
    data = build(config.data)
    data.setup("fit")
    # Reading the data once more for their hash takes a while: one process of the run does it.
    meta = data.meta() if getattr(rank_zero_only, "rank", 0) == 0 else {}
    refuse_other_data(run_dir, meta)
    module = _module(config, data)
    interruption = Interruption()
    trainer = _trainer(config, run_dir, resolved, meta, interruption, has_castling=any(angular_cores(module)))
    with only_writer(run_dir) if trainer.is_global_zero else nullcontext():
        _continue(trainer, module, data, run_dir, config.name, interruption)
    return run_dir


def _continue(
    trainer: pl.Trainer,
    module: ModelModule[Any],
    data: pl.LightningDataModule,
    run_dir: Path,
    name: str,
    interruption: Interruption,
) -> None:
    """Train the epochs that the run directory lacks."""
    state = run_dir / TRAINER
    done = epochs_done(state)
    if trainer.max_epochs is not None and done >= trainer.max_epochs:
        trainer.print(
            f"{run_dir} is already trained ({done} epochs); give run_dir=NEW_FOLDER to train again",
            flush=True,
        )
        return
    parameters = sum(p.numel() for p in module.model.parameters()) / 1e6
    beginning = f"resuming after epoch {done}" if done else "starting"
    trainer.print(f"{name}: {beginning}, {parameters:.2f} M parameters, results in {run_dir}", flush=True)
    try:
        with interruption.watched():
            trainer.fit(module, datamodule=data, ckpt_path=state if done else None, weights_only=True)
    except SystemExit as error:  # which Lightning makes of Ctrl-C
        print("interrupted; the same command resumes from the last finished epoch", flush=True)
        raise KeyboardInterrupt from error


def _resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values."""
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value: give {error.full_key}=VALUE.") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _module(config: DictConfig, data: Any) -> ModelModule[Any]:
    """What is trained. Demonstrations know what fits a policy to them; a classifier's config names it."""
    if config.get("policy") is not None:
        return data.training_module(partial(build, config.policy), build(config.optimizer), config.seed)
    return build(config.classifier, seed=config.seed, **data.model_inputs())


def _logger(config: DictConfig) -> Any:
    if not config:
        return False
    if config.get("_target_") == WANDB_LOGGER:
        require("wandb", extra="wandb", purpose="logger=wandb")
    return build(config)


def _trainer(
    config: DictConfig,
    run_dir: Path,
    resolved: dict[str, Any],
    meta: dict[str, Any],
    interruption: Interruption,
    *,
    has_castling: bool,
) -> pl.Trainer:
    options = dict(resolved["trainer"])
    every, keep_last, decay, castling_end = (
        options.pop(key) for key in ("checkpoint_every_n_epochs", "keep_last", "ema_decay", "castling_end")
    )
    rollouts = config.get("rollouts")
    if options["strategy"] == FSDP2 and (decay is not None or rollouts is not None):
        raise ConfigError(
            f"With trainer.strategy={FSDP2} no process holds a whole model while it trains: set "
            "trainer.ema_decay=null and rollouts=null, or use trainer.strategy=ddp."
        )
    # First, so that the history and the checkpoint of an epoch know what it did.
    callbacks: list[pl.Callback] = [] if rollouts is None else [build(rollouts, run_dir=run_dir)]
    cost = TrainingCost()
    callbacks += [
        History(run_dir),
        cost,
        CheckpointDirectory(run_dir, resolved, meta, cost, every, keep_last),
        interruption,
    ]
    if has_castling:
        callbacks.append(CastlingSchedule(castling_end))
    if decay is not None:
        callbacks.append(MovingAverage(decay))  # after the schedule, whose buffers it copies
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        callbacks.append(RichProgressBar(leave=False))
    try:
        trainer = pl.Trainer(
            **options,
            logger=_logger(config.logger),
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
    if decay is not None and trainer.precision in ("64-true", "16-true", "bf16-true"):
        raise ConfigError(
            f"With trainer.precision={trainer.precision} weights change their type and are not averaged: set "
            "trainer.ema_decay=null, or use a precision that is mixed, e.g. bf16-mixed."
        )
    return trainer


def _quiet_libraries() -> None:
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Loaders are fed from memory or sized by the data config; Lightning's advice does not apply.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*The number of training batches.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    # A model that is averaged is not sharded: `_trainer` refuses both together.
    warnings.filterwarnings("ignore", message=".*WeightAveraging callback with a model that overrides.*")
