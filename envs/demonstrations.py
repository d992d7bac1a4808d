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
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from fibo_robot.envs.tasks import Task
from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_json

_DEMO_NAME = re.compile(r"demo_(\d+)")


class DatasetError(FiboError):
    """A demonstration file is missing, damaged, of another layout, or not what was asked for."""


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
        """One observation: pictures uint8 `(T, H, W, 3)`, vectors `(T, D)`."""
        return self.array(demo, f"obs/{key}")[:]

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
        from fibo_robot.envs.robomimic import task_from_env_args

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


@dataclass(frozen=True)
class Demonstration:
    """One demonstration in memory; every array's first axis is time, T steps.

    Attributes:
        obs: what was seen before each action; pictures uint8 `(T, H, W, 3)`, vectors `(T, D)`.
        actions: what was executed, `(T, A)`.
        states: flat MuJoCo states before each action, float64 `(T, S)`.
        rewards: after each action, `(T,)`.
        dones: 1 where the task was solved after the action, and at the end, `(T,)`.
        model_file: the scene as MuJoCo XML.
        attributes: further attributes, such as `seed` and `success`.
        extra: further arrays, such as `expert_actions`.
    """

    obs: Mapping[str, np.ndarray]
    actions: np.ndarray
    states: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    model_file: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def write(self, group: h5py.Group) -> None:
        """Write into an empty group."""
        arrays = {
            "actions": self.actions,
            "states": self.states,
            "rewards": self.rewards,
            "dones": self.dones,
        }
        for key, array in {**arrays, **self.extra}.items():
            group.create_dataset(key, data=array)
        for key, array in self.obs.items():
            if array.dtype == np.uint8:
                # One chunk per picture: a training batch reads single frames in random order.
                chunks = (1, *array.shape[1:])
                group.create_dataset(f"obs/{key}", data=array, chunks=chunks, compression="lzf")
            else:
                group.create_dataset(f"obs/{key}", data=array)
        group.attrs.update(
            {"num_samples": len(self.actions), "model_file": self.model_file, **self.attributes}
        )


class DemonstrationWriter:
    """Collects demonstrations as part files beside the target, and makes the target of them at the end.

    Part files are whole or absent, and so is the target: an interrupted recording continues where it stopped.
    Parts are named by numbers that the caller chooses; several processes may write different ones at once.
    """

    def __init__(self, target: Path | str, settings: Mapping[str, Any]) -> None:
        """Begin, or continue what an earlier run with the same settings began.

        Args:
            target: the HDF5 file to make.
            settings: whatever the demonstrations depend on (JSON-ready).

        Raises:
            DatasetError: if parts lie there that were recorded with other settings.
        """
        self.target = Path(target)
        self.folder = self.target.with_name(f".{self.target.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        described = self.folder / "settings.json"
        if described.exists():
            if json.loads(described.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
                raise DatasetError(
                    f"{self.folder} holds an unfinished recording with other settings; finish it with the "
                    "same command, delete the folder, or choose another output."
                )
        else:
            write_json(described, settings)

    def has(self, number: int) -> bool:
        """Whether part `number` is already there."""
        return self.part(number).exists()

    def part(self, number: int) -> Path:
        """The file of part `number`."""
        return self.folder / f"{number:09d}.hdf5"

    def finish(
        self, parts: Mapping[str, int], env_args: Mapping[str, Any], masks: Mapping[str, Sequence[str]]
    ) -> None:
        """Make the target of the parts, and remove them.

        Args:
            parts: the number of the part that each demonstration comes from, by its name.
            env_args: robomimic's environment metadata.
            masks: names of demonstrations by filter key.
        """
        with replace_atomically(self.target) as temporary, h5py.File(temporary, "w") as file:
            data = file.create_group("data")
            total = 0
            for demo, number in parts.items():
                with h5py.File(self.part(number), "r") as part:
                    part.copy("demo", data, name=demo)
                total += int(data[demo].attrs["num_samples"])
            data.attrs["total"] = total
            data.attrs["env_args"] = json.dumps(env_args, indent=4)
            for key, demos in masks.items():
                file.create_dataset(f"mask/{key}", data=np.array(demos, dtype="S"))
        shutil.rmtree(self.folder)


def write_part(path: Path, demonstration: Demonstration) -> None:
    """Write one part file of a :class:`DemonstrationWriter`, atomically."""
    with replace_atomically(path) as temporary, h5py.File(temporary, "w") as file:
        demonstration.write(file.create_group("demo"))


def split_masks(demos: Sequence[str], every: int = 10) -> dict[str, list[str]]:
    """The masks `train` and `valid`: every tenth demonstration is held out (none if there are fewer)."""
    valid = list(demos[every - 1 :: every])
    return {"train": [demo for demo in demos if demo not in valid], "valid": valid}


def dataset_hash(path: Path | str) -> str:
    """SHA-256 of a dataset's file, for a checkpoint's metadata."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
