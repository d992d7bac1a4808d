"""A robomimic HDF5 file as a source of demonstrations; pictures are read in short runs, in any process.

What a read of a few pictures costs is hardly their bytes but HDF5's way to them. An array that lies in the
file in one piece, as robomimic writes it by default, is read by the operating system alone, at the place that
HDF5 names once. A chunked or compressed one goes through HDF5, with a bounded number of arrays held open.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fibo_robot.envs.controllers import composite_controller
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile, dataset_hash
from fibo_robot.envs.robomimic_metadata import recorded_seeds
from fibo_robot.envs.tasks import Task

# An open array takes about 25 kB for the index of its chunks; opening one takes as long as reading a picture.
_ARRAYS_HELD_OPEN = 4096


class Hdf5Source:
    """A robomimic file for training; see DemonstrationSource, whose methods these are.

    Args:
        path: the file, with an `obs` group per demonstration.
        checked: another process of this run looks into every demonstration, so this one need not.

    Raises:
        DatasetError: the file is missing, truncated, not HDF5 or not in robomimic's layout.
    """

    def __init__(self, path: Path | str, *, checked: bool = False) -> None:
        self._file = DemonstrationFile(path, checked=checked)
        self._checked = checked
        self._offsets: dict[tuple[str, str], int] = {}  # where in the file an array lies in one piece
        self._arrays: dict[tuple[str, str], h5py.Dataset] = {}
        self._opener = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    @property
    def name(self) -> str:
        return str(self._file.path)

    @property
    def demos(self) -> Sequence[str]:
        return self._file.demos

    @property
    def obs_keys(self) -> Sequence[str]:
        return self._file.obs_keys

    def task(self) -> Task:
        """The task that was demonstrated; refused where the file tells of its controller in two ways."""
        task = self._file.task()
        given = self._file.env_args.get("env_kwargs", {}).get("controller_configs")
        if given and composite_controller(given, task.robots, self.name) != task.controller:
            raise DatasetError(
                f"The env_args of {self.name} name two controllers: env_kwargs.controller_configs and "
                "fibo_robot.task.controller differ. Make both say what the demonstrations were recorded with."
            )
        return task

    def content_hash(self) -> str:
        return dataset_hash(self._file.path)

    def seeds(self, demos: Sequence[str]) -> list[int]:
        return recorded_seeds(self._file.env_args, map(self._file.attributes, demos))

    def mask(self, filter_key: str) -> Sequence[str]:
        return self._file.mask(filter_key)

    def check(self, demos: Sequence[str], action_dim: int, action_key: str) -> None:
        if not self._checked:
            self._file.check(demos, action_dim, action_key)

    def length(self, demo: str) -> int:
        return self._file.length(demo)

    def actions(self, demo: str, action_key: str) -> np.ndarray:
        return self._file.array(demo, action_key)[:]

    def vectors(self, demo: str, key: str) -> np.ndarray:
        return self._file.observation(demo, key)

    def picture_shape(self, demo: str, key: str) -> tuple[int, ...]:
        array = self._file.array(demo, f"obs/{key}")
        if array.dtype != np.uint8:
            raise DatasetError(
                f"obs/{key} of {demo} in {self.name} holds {array.dtype} numbers where pictures are uint8. "
                "Record or convert the demonstrations again."
            )
        return array.shape[1:]

    def read_pictures(self, demo: str, key: str, first: int, into: np.ndarray) -> None:
        try:
            place = self._place(demo, key)
            if isinstance(place, h5py.Dataset):
                into[:] = place[first : first + len(into)]
                return
            # Reads at a place leave the descriptor's position alone, which others may share.
            read = os.preadv(self._file.descriptor(), [into.data], place + first * into[0].nbytes)
        except OSError as error:
            raise DatasetError(f"obs/{key} of {demo} in {self.name} cannot be read: {error}") from error
        if read != into.nbytes:
            raise DatasetError(f"{self.name} is truncated: it ends within obs/{key} of {demo}.")

    def _place(self, demo: str, key: str) -> int | h5py.Dataset:
        """Where in the file an array lies in one piece, or else the array, open in this process."""
        known = self._offsets.get((demo, key))
        if known is not None:
            return known
        if self._opener != os.getpid():
            self._arrays, self._opener = {}, os.getpid()
        array = self._arrays.get((demo, key))
        if array is None:
            array = self._file.array(demo, f"obs/{key}")
            offset = array.id.get_offset()
            if offset is not None:
                self._offsets[demo, key] = offset
                return offset
            if len(self._arrays) >= _ARRAYS_HELD_OPEN:
                del self._arrays[next(iter(self._arrays))]
            self._arrays[demo, key] = array
        return array

    def close(self) -> None:
        self._arrays.clear()
        self._file.close()
