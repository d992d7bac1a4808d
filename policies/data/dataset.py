"""Demonstrations as training samples: observations, and the chunk of actions that follows."""

from collections.abc import Sequence
from typing import TypedDict, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.interfaces import ShapeMeta, Window
from fibo_robot.policies.data.actions import check_actions
from fibo_robot.policies.data.checks import check_distinct, check_finite
from fibo_robot.policies.data.pictures import Pictures, rows_of
from fibo_robot.policies.data.source import DemonstrationSource

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
    """Every time step of the chosen demonstrations: vectors and actions in memory, pictures if they fit.

    A sample at time t has the actions of t ... t+H-1, H being the action horizon. With the window `past` it
    has the observations of t-n_obs_steps+1 ... t, the first one repeated before the start: what a policy sees
    when it decides. With `sequence` it has those of t ... t+H-1, one beside each action, for policies that
    carry a state. Past the end the last action and observation are repeated and marked not valid.

    Samples are the same wherever the pictures lie; what differs is time and memory.

    Args:
        source: holds the demonstrations.
        shape_meta: which keys to read, and the horizons.
        filter_key: a mask of the source, e.g. `train`; None reads all.
        max_demos: read only the first so many.
        action_key: the array that holds the actions to imitate: `actions` as executed, or, in files
            recorded here with noise, `expert_actions`, what the expert meant to do in the state reached.
        window: which observations a sample has.
        cache_bytes: pictures that fit into so many bytes, decoded, are kept in memory; of others none are.

    Attributes:
        cached_bytes: what the pictures in memory take.

    Raises:
        DatasetError: the demonstrations are not usable, or lack a key or mask; the message names it.
    """

    def __init__(
        self,
        source: DemonstrationSource,
        shape_meta: ShapeMeta,
        filter_key: str | None = "train",
        max_demos: int | None = None,
        action_key: str = "actions",
        window: Window = "past",
        cache_bytes: int = 0,
    ) -> None:
        if window not in get_args(Window):
            raise DatasetError(f"A sample's window must be past or sequence, not {window!r}.")
        self.shape_meta, self.window, self.source = shape_meta, window, source
        demos = source.demos if filter_key is None else source.mask(filter_key)
        self.demos = list(demos[:max_demos])
        if not self.demos:
            raise DatasetError(f"{source.name} has no demonstrations in its mask '{filter_key}'.")
        source.check(self.demos, shape_meta.action.dim, action_key)
        self._read(action_key, cache_bytes)

    def _read(self, action_key: str, cache_bytes: int) -> None:
        source, spec = self.source, self.shape_meta.action
        actions = [source.actions(demo, action_key) for demo in self.demos]
        hands = [self._vectors(demo, _HAND) for demo in self.demos] if _HAND in source.obs_keys else None
        parts = {"actions": check_actions(self.demos, actions, spec, source.name, hands)}
        for key in self.shape_meta.keys("low_dim"):
            parts[key] = [self._vectors(demo, key).astype(np.float32) for demo in self.demos]
            for demo, values in zip(self.demos, parts[key]):
                self._check_shape(key, demo, values.shape[1:], self.shape_meta.obs[key].shape)
        cameras = {key: self._picture_shape(key) for key in self.shape_meta.keys("rgb")}
        check_distinct(source, self.demos, parts, cameras)

        lengths = np.array([len(steps) for steps in actions])
        ends = np.cumsum(lengths)
        self.first = torch.from_numpy(np.repeat(ends - lengths, lengths))
        self.last = torch.from_numpy(np.repeat(ends - 1, lengths))
        joined = {key: torch.from_numpy(np.concatenate(arrays)) for key, arrays in parts.items()}
        self.actions = joined.pop("actions")
        self.vectors = joined
        self.pictures = {
            key: Pictures(source, key, self.demos, lengths, self.shape_meta.obs[key].shape) for key in cameras
        }
        needed = sum(pictures.nbytes for pictures in self.pictures.values())
        self.cached_bytes = needed if needed <= cache_bytes else 0
        if self.cached_bytes:
            for pictures in self.pictures.values():
                pictures.load()

    def _vectors(self, demo: str, key: str) -> np.ndarray:
        values = self.source.vectors(demo, key)
        check_finite(values, key, demo, self.source.name)
        return values

    def _picture_shape(self, key: str) -> tuple[int, ...]:
        """Shape `(H, W, 3)` of a camera's pictures, the same in all demonstrations."""
        channels, height, width = self.shape_meta.obs[key].shape
        for demo in self.demos:
            self._check_shape(key, demo, self.source.picture_shape(demo, key), (height, width, channels))
        return height, width, channels

    def _check_shape(self, key: str, demo: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if found != wanted:
            raise DatasetError(
                f"{demo} of {self.source.name}: '{key}' has shape {found}, the task wants {wanted}. "
                "Record or convert the demonstrations with the task's settings."
            )

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
        vectors = {key: rows_of(values, seen) for key, values in self.vectors.items()}
        pictures = {key: values.rows(seen) for key, values in self.pictures.items()}
        return {
            "obs": {**vectors, **pictures},
            "actions": self.actions[ahead],
            "valid": future <= last,
        }

    def __getitem__(self, index: int) -> Batch:
        """One sample, as a batch of one."""
        return self.__getitems__([(index, 0)])

    def statistics(self) -> dict[str, Tensor]:
        """What the normaliser is fitted on: actions and low-dimensional keys, (samples, D) each."""
        return {"action": self.actions, **self.vectors}
