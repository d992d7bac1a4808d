"""The LightningDataModule for demonstrations of one task."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile, dataset_hash
from fibo_robot.interfaces import Window
from fibo_robot.policies.data.dataset import Batch, DemonstrationDataset
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.module import BehaviourCloningModule
from fibo_robot.training.module import OptimizerConfig
from fibo_robot.training.sampler import StepSampler, evaluation_batches


class DemonstrationData(pl.LightningDataModule):
    """Demonstrations for training and validation.

    The task, with its cameras, renderer and control, is the one recorded in the file: a policy is
    evaluated on what it was trained on.

    Args:
        path: robomimic-format HDF5 with observations.
        obs_keys: the observation keys that the policy sees; None means the task's own default.
        n_obs_steps, action_horizon, n_action_steps: see ShapeMeta.
        batch_size: samples per step and process.
        steps_per_epoch: steps between two checkpoints.
        filter_key, valid_key: masks of the file for training and validation; valid_key None skips it.
        max_demos: use only the first so many training demonstrations.
        action_key: the array of actions to imitate; see DemonstrationDataset.
        window: which observations a sample holds; see DemonstrationDataset.
        seed: decides the order of samples.
    """

    def __init__(
        self,
        path: str,
        obs_keys: Sequence[str] | None = None,
        n_obs_steps: int = 1,
        action_horizon: int = 1,
        n_action_steps: int = 1,
        batch_size: int = 64,
        steps_per_epoch: int = 100,
        filter_key: str | None = "train",
        valid_key: str | None = "valid",
        max_demos: int | None = None,
        action_key: str = "actions",
        window: Window = "past",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(batch_size, steps_per_epoch) < 1:
            raise DatasetError(
                f"batch_size and steps_per_epoch must be positive, not {batch_size} and {steps_per_epoch}."
            )
        self.path, self.obs_keys = Path(path), None if obs_keys is None else list(obs_keys)
        self.horizons = {
            "n_obs_steps": n_obs_steps,
            "action_horizon": action_horizon,
            "n_action_steps": n_action_steps,
        }
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.filter_key, self.valid_key, self.max_demos = filter_key, valid_key, max_demos
        self.action_key = action_key
        self.window: Window = window
        self.train: DemonstrationDataset | None = None
        self.valid: DemonstrationDataset | None = None

    def setup(self, stage: str) -> None:
        if self.train is not None:
            return
        with DemonstrationFile(self.path) as file:
            self.task = file.task()
        self.shape_meta = self.task.shape_meta(obs_keys=self.obs_keys, **self.horizons)
        self.train = self._read(self.filter_key, self.max_demos)
        if self.valid_key is not None:
            self.valid = self._read(self.valid_key, None)

    def _read(self, filter_key: str | None, max_demos: int | None) -> DemonstrationDataset:
        return DemonstrationDataset(
            self.path, self.shape_meta, filter_key, max_demos, self.action_key, self.window
        )

    def training_module(
        self, policy: Callable[..., ChunkPolicy], optimizer: OptimizerConfig, seed: int
    ) -> BehaviourCloningModule:
        """What fits a policy to these demonstrations, once they are read."""
        assert self.train is not None
        return BehaviourCloningModule(
            policy, optimizer, self.shape_meta, self.train.statistics(), seed, self.window
        )

    def meta(self) -> dict[str, Any]:
        """What the checkpoint records about the data."""
        assert self.train is not None
        return {
            "task": self.task.to_dict(),
            "dataset": {
                "name": self.path.name,
                "sha256": dataset_hash(self.path),
                "demos": self.train.num_demos,
            },
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.train is not None and self.trainer is not None
        sampler = StepSampler.for_trainer(
            self.trainer, len(self.train), self.batch_size, self.steps_per_epoch, self.seed
        )
        return DataLoader(self.train, batch_sampler=sampler, collate_fn=_as_is)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.valid is None:
            return []
        assert self.trainer is not None
        batches = evaluation_batches(self.trainer, len(self.valid), self.batch_size)
        return DataLoader(self.valid, batch_sampler=batches, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    return batch
