"""Demonstrations as training samples: observations, and the chunk of actions that follows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.policies.data.actions import check_actions

_HAND = "robot0_eef_pos"  # where robomimic's files have the first arm's position


class Batch(TypedDict):
    """Training samples.

    Attributes:
        obs: `(B, n_obs_steps, ...)` by key, or `(B, H, ...)` in sequences.
        actions: float32 `(B, H, A)`, in the environment's units.
        valid: bool `(B, H)`; False past the end of a demonstration.
    """

    obs: dict[str, Tensor]
    actions: Tensor
    valid: Tensor


class DemonstrationDataset(Dataset[Batch]):
    """Every time step of the chosen demonstrations, held in memory (images as uint8).

    A sample at time t has the actions of t ... t+H-1, H being the action horizon. With the window `past` it
    has the observations of t-n_obs_steps+1 ... t, the first one repeated before the start: what a policy sees
    when it decides. With `sequence` it has those of t ... t+H-1, one beside each action, for policies that
    carry a state. Past the end the last action and observation are repeated and marked not valid.

    Args:
        path: robomimic-format HDF5 with an `obs` group per demonstration.
        shape_meta: which keys to read, and the horizons.
        filter_key: a mask of the file, e.g. `train`; None reads all.
        max_demos: read only the first so many.
        action_key: the array that holds the actions to imitate: `actions` as executed, or, in files
            recorded here with noise, `expert_actions`, what the expert meant to do in the state reached.
        window: which observations a sample has.

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
        window: Window = "past",
    ) -> None:
        if window not in get_args(Window):
            raise DatasetError(f"A sample's window must be past or sequence, not {window!r}.")
        self.shape_meta, self.window = shape_meta, window
        observations: dict[str, list[np.ndarray]] = {key: [] for key in shape_meta.obs}
        actions: list[np.ndarray] = []
        hands: list[np.ndarray] = []
        with DemonstrationFile(path) as file:
            demos = file.demos if filter_key is None else file.mask(filter_key)
            demos = demos[:max_demos]
            if not demos:
                raise DatasetError(f"{path} has no demonstrations in its mask '{filter_key}'.")
            file.check(demos, shape_meta.action.dim, action_key)
            for demo in demos:
                actions.append(file.array(demo, action_key)[:])
                if _HAND in file.obs_keys:
                    hands.append(file.observation(demo, _HAND))
                for key in shape_meta.obs:
                    observations[key].append(self._checked(key, file.observation(demo, key), path))
        lengths = [len(a) for a in actions]
        hand = np.concatenate(hands) if hands else None
        self.num_demos = len(demos)
        self.actions = torch.from_numpy(check_actions(np.concatenate(actions), shape_meta.action, path, hand))
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
        future = index[:, None] + torch.arange(self.shape_meta.action_horizon)
        ahead = torch.minimum(future, last)
        if self.window == "past":
            past = torch.arange(1 - self.shape_meta.n_obs_steps, 1)
            seen = torch.maximum(index[:, None] + past, first)
        else:
            seen = ahead
        return {
            "obs": {key: values[seen] for key, values in self.observations.items()},
            "actions": self.actions[ahead],
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
