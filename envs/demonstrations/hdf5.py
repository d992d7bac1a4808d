"""Demonstration files in robomimic's HDF5 layout: checked when read, complete or absent when written.

The layout: `data` holds one group per demonstration, `demo_0`, `demo_1`, …, with `obs/<key>`, `actions`,
`states`, `rewards` and `dones`, and the attributes `num_samples` and `model_file`; `data` itself has the
attributes `env_args` (JSON) and `total`; `mask/train` and `mask/valid` list names of demonstrations. Pictures
are uint8 `(T, H, W, 3)`. Files recorded here add `expert_actions` (what the expert meant, where `actions` is
what was executed, noise included) and the attributes `seed` and `success`.
"""

import hashlib
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.object_state import stored_object_state
from fibo_robot.envs.tasks import Task

_DEMO_NAME = re.compile(r"demo_(\d+)")


class DemonstrationFile:
    """A robomimic HDF5 file, open for reading; use it as a context manager.

    Attributes:
        path: the file.
        demos: names of all demonstrations, in the order of their numbers.
        env_args: robomimic's environment metadata.
    """

    def __init__(self, path: Path | str) -> None:
        """Open and check the file.

        Raises:
            DatasetError: if it is missing, truncated, not HDF5 or not in robomimic's layout.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise DatasetError(
                f"The dataset {self.path} does not exist; record one with `fibo demos record`."
            )
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DatasetError(
                f"The dataset {self.path} cannot be opened: it is truncated or no HDF5 file."
            ) from error
        try:
            self.env_args = self._read_env_args()
            self.demos = self._read_names()
            for demo in self.demos:
                self._check_demo(demo)
        except DatasetError:
            self._file.close()
            raise

    def _read_env_args(self) -> dict[str, Any]:
        if "data" not in self._file or "env_args" not in self._file["data"].attrs:
            raise DatasetError(
                f"{self.path} is not in robomimic's layout: it has no data group with env_args."
            )
        try:
            env_args = json.loads(self._file["data"].attrs["env_args"])
        except json.JSONDecodeError as error:
            raise DatasetError(f"The env_args of {self.path} are not JSON.") from error
        if not isinstance(env_args, dict) or "env_name" not in env_args:
            raise DatasetError(f"The env_args of {self.path} do not name an environment (env_name).")
        return env_args

    def _read_names(self) -> list[str]:
        numbers = [int(match[1]) for name in self._file["data"] if (match := _DEMO_NAME.fullmatch(name))]
        if not numbers:
            raise DatasetError(f"{self.path} holds no demonstrations (data/demo_0, …).")
        return [f"demo_{number}" for number in sorted(numbers)]

    def _check_demo(self, demo: str) -> None:
        group = self._file["data"][demo]
        if "actions" not in group:
            raise DatasetError(f"{self.path} is not in robomimic's layout: {demo} has no actions.")
        length = len(group["actions"])
        for key in ("states", "rewards", "dones", *(f"obs/{key}" for key in group.get("obs", ()))):
            if key in group and len(group[key]) != length:
                rows = len(group[key])
                raise DatasetError(
                    f"{self.path} is damaged: {demo} has {length} actions but {rows} rows of {key}."
                )

    @property
    def masks(self) -> list[str]:
        """Names of the file's filter keys, such as `train` and `valid`."""
        return sorted(self._file["mask"]) if "mask" in self._file else []

    def mask(self, filter_key: str) -> list[str]:
        """Demonstrations under a filter key, by number; raises DatasetError for one that is not there."""
        if filter_key not in self.masks:
            known = ", ".join(self.masks) or "none"
            raise DatasetError(f"{self.path} has no mask {filter_key!r}; it has: {known}.")
        names = {name.decode() for name in self._file["mask"][filter_key][:]}
        unknown = names.difference(self.demos)
        if unknown:
            raise DatasetError(
                f"The mask {filter_key} of {self.path} names {min(unknown)}, which is not there."
            )
        return [demo for demo in self.demos if demo in names]

    @property
    def obs_keys(self) -> list[str]:
        """Observation keys of the first demonstration; none in a raw file."""
        return sorted(self._file["data"][self.demos[0]].get("obs", ()))

    def length(self, demo: str) -> int:
        """Number of steps of one demonstration."""
        return len(self._file["data"][demo]["actions"])

    def actions(self, demo: str) -> np.ndarray:
        """The executed actions, `(T, A)`."""
        return self.array(demo, "actions")[:]

    def states(self, demo: str) -> np.ndarray:
        """The flat MuJoCo states before each action, float64 `(T, S)`."""
        return self.array(demo, "states")[:]

    def observation(self, demo: str, key: str) -> np.ndarray:
        """One observation: pictures uint8 `(T, H, W, 3)`, vectors `(T, D)`.

        Raises:
            DatasetError: if there is none, or it is `object` and nothing says what its numbers are.
        """
        values = self.array(demo, f"obs/{key}")[:]
        return stored_object_state(values, self.env_args, str(self.path)) if key == "object" else values

    def array(self, demo: str, key: str) -> h5py.Dataset:
        """Any array of a demonstration, first axis time, to read parts of; `key` as in `obs/object`.

        Raises:
            DatasetError: if the demonstration has no such array.
        """
        group = self._file["data"][demo]
        if key not in group:
            known = ", ".join([k for k in group if k != "obs"] + [f"obs/{k}" for k in group.get("obs", ())])
            raise DatasetError(f"{demo} of {self.path} has no {key!r}; it has: {known}.")
        return group[key]

    def attributes(self, demo: str) -> dict[str, Any]:
        """Attributes of one demonstration, such as `model_file`, `seed` and `success`."""
        return dict(self._file["data"][demo].attrs)

    def task(self) -> Task:
        """The task the demonstrations were recorded on, rebuilt from :attr:`env_args`.

        Raises:
            DatasetError: if its environment or controller is not one of ours.
        """
        from fibo_robot.envs.simulation.robomimic_metadata import task_from_env_args

        return task_from_env_args(self.env_args, str(self.path))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "DemonstrationFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dataset_hash(path: Path | str) -> str:
    """SHA-256 of a dataset's file, for a checkpoint's metadata."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
