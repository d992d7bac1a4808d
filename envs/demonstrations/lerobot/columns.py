"""What a demonstration becomes in LeRobot's data files: columns of numbers, a row for each step."""

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.lerobot import layout
from fibo_robot.envs.demonstrations.lerobot.layout import Feature
from fibo_robot.envs.tasks import Task


class Columns:
    """Reads them, beside the counters, from a robomimic file.

    Attributes:
        state_keys: observations in `observation.state` and their sizes, in this order.
        has_object: whether the file has `object`, which has a column of its own.
        features: what a step has, by column; that of the demonstrations read so far.
    """

    def __init__(self, file: DemonstrationFile, task: Task) -> None:
        self.file, self.task = file, task
        vectors = {key: size for key, size in task.low_dim.items() if key in file.obs_keys}
        self.state_keys = {key: size for key, size in vectors.items() if key != "object"}
        self.has_object = "object" in vectors
        self.features: dict[str, Feature] = {}

    def read(self, demo: str) -> dict[str, np.ndarray]:
        """One demonstration's columns, first axis time.

        Raises:
            DatasetError: something does not fit the format, or differs from other demonstrations.
        """
        file = self.file
        state = [self._vectors(demo, key, size) for key, size in self.state_keys.items()]
        names = {layout.STATE: layout.state_names(self.state_keys)}
        columns: dict[str, np.ndarray] = {}
        if state:
            columns[layout.STATE] = np.concatenate(state, axis=1).astype(np.float32)
        if self.has_object:
            size = self.task.low_dim["object"]
            columns[layout.OBJECT] = self._vectors(demo, "object", size).astype(np.float32)
        actions = file.actions(demo)
        columns[layout.ACTION] = actions.astype(np.float32)
        columns[f"{layout.OURS}actions"] = actions
        for key in file.array_keys(demo):
            self._check_column(demo, key, len(actions))
            if key == "rewards":
                columns[layout.REWARD] = file.array(demo, key)[:].astype(np.float32)
            elif key == "dones":
                columns[layout.DONE] = file.array(demo, key)[:].astype(bool)
            if key != "actions":
                columns[layout.OURS + key] = file.array(demo, key)[:]
        for key, values in columns.items():
            shape = values.shape[1:] or (1,)
            self.take_feature(demo, key, Feature(str(values.dtype), shape, names.get(key)))
        return columns

    def take_feature(self, demo: str, key: str, feature: Feature) -> None:
        """Remember what a step has; it must be the same in all demonstrations."""
        if self.features.setdefault(key, feature) != feature:
            raise DatasetError(
                f"{demo} of {self.file.path} has {key} of {feature.dtype} {feature.shape}, other "
                f"demonstrations have {self.features[key].dtype} {self.features[key].shape}: such a file has "
                "no v3 layout."
            )

    def _vectors(self, demo: str, key: str, size: int) -> np.ndarray:
        """An observation `(T, size)`: what stands after it in `observation.state` is found by its size."""
        values = self.file.observation(demo, key)
        if values.shape[1:] != (size,):
            raise DatasetError(
                f"{demo} of {self.file.path}: '{key}' has shape {values.shape[1:]}, the task has ({size},). "
                "Record or convert the demonstrations with the task's settings."
            )
        return values

    def _check_column(self, demo: str, key: str, length: int) -> None:
        """A column is numbers or truth values, a row for each step."""
        array = self.file.array(demo, key)
        if len(array) != length or array.dtype.kind not in "biuf":
            raise DatasetError(
                f"{demo} of {self.file.path} has {len(array)} rows of {key}, type {array.dtype}: LeRobot's "
                f"format takes numbers for each of its {length} steps. Remove {key} from a copy of the file."
            )
