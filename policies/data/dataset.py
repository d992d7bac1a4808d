"""Demonstrations as training samples: the latest observations and the chunk of actions that follows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.interfaces import ShapeMeta

Batch = dict[str, dict[str, Tensor] | Tensor]


class DemonstrationDataset(Dataset[Batch]):
    """Every time step of the chosen demonstrations, held in memory (images as uint8).

    A sample at time t has the observations of t-n_obs_steps+1 ... t (the first one repeated before the
    start) and the actions of t ... t+H-1. Past the end the last action is repeated and marked not valid.

    Args:
        path: robomimic-format HDF5 with an `obs` group per demonstration.
        shape_meta: which keys to read, and the horizons.
        filter_key: a mask of the file, e.g. `train`; None reads all.
        max_demos: read only the first so many.
        action_key: the array that holds the actions to imitate: `actions` as executed, or, in files
            recorded here with noise, `expert_actions`, what the expert meant to do in the state reached.

    Raises:
        DatasetError: the file is not usable, or lacks a key or mask; the message names it.
    """

    def __init__(
        self,
        path: str | Path,
        shape_meta: ShapeMeta,
        filter_key: str | None = "train",
        max_demos: int | None = None,
        action_key: str = "actions",
    ) -> None:
        self.shape_meta = shape_meta
        observations: dict[str, list[np.ndarray]] = {key: [] for key in shape_meta.obs}
        actions: list[np.ndarray] = []
        with DemonstrationFile(path) as file:
            demos = file.demos if filter_key is None else file.mask(filter_key)
            demos = demos[:max_demos]
            if not demos:
                raise DatasetError(f"{path} has no demonstrations in its mask '{filter_key}'.")
            for demo in demos:
                # The simulator clips actions to [-1, 1]; keyboards and old recordings go beyond.
                actions.append(np.clip(file.array(demo, action_key)[:], -1, 1))
                for key in shape_meta.obs:
                    observations[key].append(self._checked(key, file.observation(demo, key), path))
        lengths = [len(a) for a in actions]
        if actions[0].shape[1] != shape_meta.action_dim:
            raise DatasetError(
                f"{path} has actions of length {actions[0].shape[1]}, the task {shape_meta.action_dim}. "
                "Choose the task that the demonstrations were recorded for."
            )
        self.num_demos = len(demos)
        self.actions = torch.from_numpy(np.concatenate(actions).astype(np.float32))
        self.observations = {
            key: torch.from_numpy(np.concatenate(parts)) for key, parts in observations.items()
        }
        ends = np.cumsum(lengths)
        self.first = torch.from_numpy(np.repeat(ends - lengths, lengths))
        self.last = torch.from_numpy(np.repeat(ends - 1, lengths))

    def _checked(self, key: str, values: np.ndarray, path: str | Path) -> np.ndarray:
        spec = self.shape_meta.obs[key]
        if spec.kind == "rgb":
            values = values.transpose(0, 3, 1, 2)  # stored as (T, H, W, 3)
        if values.shape[1:] != spec.shape:
            raise DatasetError(
                f"{path}: '{key}' has shape {values.shape[1:]}, the task wants {spec.shape}. "
                "Record or convert the demonstrations with the task's settings."
            )
        return np.ascontiguousarray(values) if spec.kind == "rgb" else values.astype(np.float32)

    def __len__(self) -> int:
        return len(self.actions)

    def __getitems__(self, samples: Sequence[tuple[int, int]]) -> Batch:
        """One batch for the `(index, draw)` pairs of a StepSampler."""
        index = torch.tensor([sample for sample, _ in samples])
        first, last = self.first[index, None], self.last[index, None]
        past = torch.arange(1 - self.shape_meta.n_obs_steps, 1)
        future = index[:, None] + torch.arange(self.shape_meta.action_horizon)
        at = torch.maximum(index[:, None] + past, first)
        return {
            "obs": {key: values[at] for key, values in self.observations.items()},
            "actions": self.actions[torch.minimum(future, last)],
            "valid": future <= last,
        }

    def __getitem__(self, index: int) -> Batch:
        """One sample, as a batch of one."""
        return self.__getitems__([(index, 0)])

    def statistics(self) -> dict[str, Tensor]:
        """What the normaliser is fitted on: actions and low-dimensional keys, (samples, D) each."""
        return {"action": self.actions} | {
            key: self.observations[key] for key in self.shape_meta.keys("low_dim")
        }
