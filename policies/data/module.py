"""The LightningDataModule for demonstrations of one task."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.demonstrations.lerobot.layout import is_lerobot, open_lerobot
from fibo_robot.interfaces import Window
from fibo_robot.policies.data.dataset import Batch, DemonstrationDataset
from fibo_robot.policies.data.hdf5 import Hdf5Source
from fibo_robot.policies.data.source import DemonstrationSource
from fibo_robot.policies.models.base import ChunkPolicy
from fibo_robot.policies.module import BehaviourCloningModule
from fibo_robot.training.module import OptimizerConfig
from fibo_robot.training.sampler import StepSampler, evaluation_batches


class DemonstrationData(pl.LightningDataModule):
    """Demonstrations for training and validation.

    The task, with its cameras, renderer and control, is the one recorded in the file: a policy is
    evaluated on what it was trained on.

    Args:
        path: robomimic-format HDF5 with observations, or the folder of a dataset in LeRobot's format v3 that
            was converted from one.
        obs_keys: the observation keys that the policy sees; None means the task's own default.
        n_obs_steps, action_horizon, n_action_steps: see ShapeMeta.
        batch_size: samples per step and process.
        steps_per_epoch: steps between two checkpoints.
        filter_key, valid_key: masks of the file for training and validation; valid_key None skips it.
        max_demos: use only the first so many training demonstrations.
        action_key: the array of actions to imitate; see DemonstrationDataset.
        window: which observations a sample holds; see DemonstrationDataset.
        num_workers: processes that read pictures ahead of training; 0 reads them in this one. Batches are the
            same for any number.
        cache_gb: pictures are kept in memory where all of them, decoded, fit into so many gigabytes (1e9
            bytes) per training process; otherwise they are read from the file as they are needed.
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
        num_workers: int = 0,
        cache_gb: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(num_workers, seed) < 0 or not 0 <= cache_gb < math.inf:
            raise DatasetError(
                "num_workers, cache_gb and seed must be finite and not negative; given are "
                f"{num_workers}, {cache_gb} and {seed}."
            )
        if max_demos is not None and (not isinstance(max_demos, int) or max_demos < 1):
            raise DatasetError(
                f"max_demos must be a whole number of at least 1, or null for all, not {max_demos}."
            )
        if obs_keys is not None and not obs_keys:
            raise DatasetError("obs_keys names nothing that the policy sees; null is the task's own choice.")
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
        self.num_workers, self.cache_gb = num_workers, cache_gb
        self.train: DemonstrationDataset | None = None
        self.valid: DemonstrationDataset | None = None

    def setup(self, stage: str) -> None:
        if self.train is not None:
            return
        # One process of the run looks into every demonstration: the others start with the same file.
        self.source = _open(self.path, checked=getattr(rank_zero_only, "rank", 0) != 0)
        self.task = self.source.task()
        self.shape_meta = self.task.shape_meta(obs_keys=self.obs_keys, **self.horizons)
        room = round(self.cache_gb * 1e9)
        self.train = self._read(self.filter_key, self.max_demos, room)
        if self.valid_key is not None:
            self.valid = self._read(self.valid_key, None, room - self.train.cached_bytes)
            both = set(self.train.demos).intersection(self.valid.demos)
            if both:
                warnings.warn(
                    f"{len(both)} demonstrations of {self.path} are for training and for validation: "
                    "valid/loss is no loss on unseen ones. Set data.valid_key=null or another mask.",
                    stacklevel=2,
                )
        self.source.close()  # whoever reads pictures, here or in another process, opens it again

    def teardown(self, stage: str) -> None:
        self.source.close()

    def _read(self, filter_key: str | None, max_demos: int | None, room: int) -> DemonstrationDataset:
        return DemonstrationDataset(
            self.source, self.shape_meta, filter_key, max_demos, self.action_key, self.window, room
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
                "sha256": self.source.content_hash(),
                "demos": len(self.train.demos),
                "seeds": self.source.seeds(self.train.demos),
            },
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.train is not None and self.trainer is not None
        sampler = StepSampler.for_trainer(
            self.trainer, len(self.train), self.batch_size, self.steps_per_epoch, self.seed
        )
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.valid is None:
            return []
        assert self.trainer is not None
        return self._loader(self.valid, evaluation_batches(self.trainer, len(self.valid), self.batch_size))

    def _loader(self, data: DemonstrationDataset, batches: Any) -> DataLoader[Batch]:
        workers = 0 if data.cached_bytes or not data.pictures else self.num_workers
        return DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=_as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def _as_is(batch: Any) -> Any:
    return batch


def _open(path: Path, checked: bool) -> DemonstrationSource:
    """The demonstrations at a path; `checked` where another process of this run looks into all of them."""
    return open_lerobot(path) if is_lerobot(path) else Hdf5Source(path, checked=checked)
