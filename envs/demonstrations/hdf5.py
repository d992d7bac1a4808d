"""Demonstration files in robomimic's HDF5 layout: each demonstration is checked when it is first read."""

import hashlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from fibo_robot.envs.demonstrations.layout import (
    array_at,
    array_names,
    check_demonstration,
    demonstration_names,
    read_env_args,
    require_rows,
)
from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.robomimic_metadata import task_from_env_args
from fibo_robot.envs.simulation.object_state import OBJECT_STATES
from fibo_robot.envs.simulation.stored_object_state import stored_object_state
from fibo_robot.envs.tasks import Task


class DemonstrationFile:
    """A robomimic HDF5 file, open for reading; use it as a context manager.

    A demonstration's arrays are checked against each other when it is first asked for, and once (the first
    one at opening); :meth:`check` checks many before long work begins. In another process, forked or sent to,
    the file is opened anew at its first use, and refused if it has changed meanwhile.

    Attributes:
        path: the file.
        demos: names of all demonstrations, in the order of their numbers.
        env_args: robomimic's environment metadata.
    """

    def __init__(self, path: Path | str, *, checked: bool = False) -> None:
        """Open the file and read what it holds.

        Args:
            path: the file.
            checked: another process of this run looks into every demonstration, so this one need not.

        Raises:
            DatasetError: if it is missing, truncated, not HDF5 or not in robomimic's layout.
        """
        self.path = Path(path)
        self._all_checked = checked
        self._checked: set[str] = set()
        self._opened: h5py.File | None = None
        self._task: Task | None = None
        self._opener = os.getpid()
        self._found: tuple[int, int] | None = None  # size and time of the file when it was first opened
        try:
            self.env_args = read_env_args(self._file)
            self.demos = demonstration_names(self._data())
            self._demo(self.demos[0])  # a file of another layout is refused here
        except DatasetError:
            self.close()
            raise

    @property
    def _file(self) -> h5py.File:
        if self._opened is None or self._opener != os.getpid():  # HDF5's state does not survive a fork
            self._opened, self._opener = self._open(), os.getpid()
        return self._opened

    def _open(self) -> h5py.File:
        if self.path.is_dir():
            raise DatasetError(
                f"{self.path} is a folder: give an HDF5 file, or a dataset of LeRobot's format."
            )
        if not self.path.is_file():
            raise DatasetError(
                f"The dataset {self.path} does not exist; record one with `fibo demos record`."
            )
        status = self.path.stat()
        found = status.st_size, status.st_mtime_ns
        if self._found not in (None, found):
            raise DatasetError(f"{self.path} has changed while it was read. Begin again with the new file.")
        self._found = found
        try:
            # Whole chunks are read once: a cache of them, a megabyte for every array, would only be filled.
            return h5py.File(self.path, "r", rdcc_nbytes=0)
        except OSError as error:
            reasons = {
                BlockingIOError: "another program is writing it",
                PermissionError: "you may not read it",
            }
            reason = reasons.get(type(error), "it is truncated or no HDF5 file")
            raise DatasetError(f"The dataset {self.path} cannot be opened: {reason}.") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _data(self) -> h5py.Group:
        data = self._file["data"]
        assert isinstance(data, h5py.Group)  # as read_env_args has found
        return data

    def _demo(self, demo: str) -> h5py.Group:
        """A demonstration's group; checked when it is first asked for."""
        group = self._data()[demo]
        if not self._all_checked and demo not in self._checked:
            check_demonstration(self._data(), demo)
            self._checked.add(demo)
        assert isinstance(group, h5py.Group)
        return group

    def check(
        self, demos: Sequence[str] | None = None, action_dim: int | None = None, action_key: str = "actions"
    ) -> None:
        """Look for what would stop or spoil training, before it begins; a missing `model_file` only warns.

        Args:
            demos: which ones; default: all.
            action_dim: how many entries an action must have; None takes any number.
            action_key: the array that holds the actions.

        Raises:
            DatasetError: a demonstration is damaged or empty, or its actions have another length or numbers
                that are not finite, or are not one for each step.
        """
        demos = self.demos if demos is None else demos
        for demo in demos:
            stored = self.array(demo, action_key)
            actions = stored[:]
            if len(actions) == 0:
                raise DatasetError(
                    f"{demo} of {self.path} has no steps; remove it from the file or its mask."
                )
            require_rows(stored, demo, action_key, self.length(demo))
            if action_dim is not None and actions.shape[1:] != (action_dim,):
                raise DatasetError(
                    f"{demo} of {self.path} has actions of shape {actions.shape[1:]}, the task takes "
                    f"({action_dim},): the file was recorded with another robot or controller."
                )
            if not np.isfinite(actions).all():
                step = int(np.argwhere(~np.isfinite(actions))[0][0])
                raise DatasetError(
                    f"{demo} of {self.path} has {action_key} that are not finite, first at step {step}; "
                    "remove it from the file or its mask."
                )
        without = [demo for demo in demos if "model_file" not in self._demo(demo).attrs]
        if without:
            warnings.warn(
                f"{len(without)} of {len(demos)} demonstrations of {self.path} have no model_file "
                f"({without[0]} is the first). They train a policy, but as the scene they were recorded in "
                "is not known, their replay may differ.",
                stacklevel=2,
            )

    @property
    def masks(self) -> list[str]:
        """Names of the file's filter keys, such as `train` and `valid`."""
        masks = self._file.get("mask")
        return sorted(masks) if isinstance(masks, h5py.Group) else []

    def mask(self, filter_key: str) -> list[str]:
        """Demonstrations under a filter key, by number.

        Raises:
            DatasetError: there is no such key, or it names a demonstration twice or one that is not there.
        """
        if filter_key not in self.masks:
            known = ", ".join(self.masks) or "none"
            raise DatasetError(f"{self.path} has no mask {filter_key!r}; it has: {known}.")
        stored = array_at(self._file, f"mask/{filter_key}")[:].tolist()
        if not all(isinstance(name, bytes) for name in stored):
            raise DatasetError(f"The mask {filter_key} of {self.path} holds no names of demonstrations.")
        listed = [name.decode() for name in stored]
        names = set(listed)
        if len(names) < len(listed):
            twice = min(name for name in names if listed.count(name) > 1)
            raise DatasetError(
                f"The mask {filter_key} of {self.path} names {twice} more than once; remove the repetition."
            )
        unknown = names.difference(self.demos)
        if unknown:
            raise DatasetError(
                f"The mask {filter_key} of {self.path} names {min(unknown)}, which is not there."
            )
        return [demo for demo in self.demos if demo in names]

    @property
    def versions(self) -> dict[str, str]:
        """What the file was made with, by package, as far as it says."""
        ours = self.env_args.get("fibo_robot", {}).get("versions")
        if ours is not None:
            return dict(ours)
        return {"robosuite": str(self.env_args["env_version"])} if "env_version" in self.env_args else {}

    @property
    def obs_keys(self) -> list[str]:
        """Observation keys of the first demonstration; none in a raw file."""
        keys = array_names(self._demo(self.demos[0]))
        return sorted(key.removeprefix("obs/") for key in keys if key.startswith("obs/"))

    def length(self, demo: str) -> int:
        """Number of steps of one demonstration."""
        return len(self.array(demo, "actions"))

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
        if key != "object":
            return values
        return stored_object_state(values, self.env_args, str(self.path), self._object_entries())

    def array(self, demo: str, key: str) -> h5py.Dataset:
        """Any array of a demonstration, first axis time; `key` as in `obs/object`. Slice it to read a part.

        Raises:
            DatasetError: if the demonstration has no such array.
        """
        group = self._demo(demo)
        if key not in group:
            raise DatasetError(
                f"{demo} of {self.path} has no {key!r}; it has: {', '.join(array_names(group))}."
            )
        return array_at(group, key)

    def descriptor(self) -> int:
        """The operating system's descriptor of the open file, in this process."""
        return self._file.id.get_vfd_handle()

    def array_keys(self, demo: str) -> list[str]:
        """Names of a demonstration's arrays beside its observations, such as `actions` and `states`."""
        group = self._demo(demo)
        return [str(key) for key in group if isinstance(group[key], h5py.Dataset)]

    def attributes(self, demo: str) -> dict[str, Any]:
        """Attributes of one demonstration, such as `model_file`, `seed` and `success`."""
        return dict(self._demo(demo).attrs)

    def task(self) -> Task:
        """The task the demonstrations were recorded on, rebuilt from :attr:`env_args`.

        Where nothing gives its horizon, it is twice the longest demonstration, in whole hundreds of steps.

        Raises:
            DatasetError: if robosuite lacks its environment, or its controller cannot be converted.
        """
        if self._task is None:
            self._task = task_from_env_args(self.env_args, str(self.path), self._horizon)
        return self._task

    def _horizon(self) -> int:
        return 100 * math.ceil(2 * max(self.length(demo) for demo in self.demos) / 100)

    def _object_entries(self) -> Mapping[str, int]:
        """What `object` holds where it is not the order that this program has; see `Task.object_entries`."""
        ours = self.env_args.get("fibo_robot", {}).get("task", {})
        if "object_entries" in ours or self.env_args["env_name"] in OBJECT_STATES:
            return ours.get("object_entries", {})
        return self.task().object_entries

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

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
