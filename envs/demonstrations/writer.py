"""Writing demonstration files in robomimic's HDF5 layout (see :mod:`fibo_robot.envs.demonstrations.layout`).

Files recorded here add `expert_actions` (what the expert meant, where `actions` is what was executed, noise
included) and the attributes `seed` and `success`.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.files import replace_atomically, write_bytes, write_json
from fibo_robot.processes import only_writer


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
    :meth:`alone` keeps another recording into the same target out meanwhile.
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
        self.folder = self._folder_of(self.target)
        self.folder.mkdir(parents=True, exist_ok=True)
        described = self.folder / "settings.json"
        if described.exists():
            if json.loads(described.read_text(encoding="utf-8")) != json.loads(json.dumps(settings)):
                raise DatasetError(
                    f"{self.folder} holds an unfinished recording with other settings; finish it with the "
                    "same command, delete the folder, or choose another output."
                )
        else:
            # Left by a removal that was interrupted: nothing says with which settings they were recorded.
            for part in self.folder.glob("*.hdf5"):
                part.unlink()
            write_json(described, settings)

    @classmethod
    @contextmanager
    def alone(cls, target: Path | str, settings: Mapping[str, Any]) -> Iterator["DemonstrationWriter"]:
        """Begin or go on as the only recording of this target; the arguments are the class's.

        Raises:
            BusyError: another process is recording into it.
            DatasetError: if parts lie there that were recorded with other settings.
        """
        with only_writer(cls._folder_of(Path(target))):
            yield cls(target, settings)

    @staticmethod
    def _folder_of(target: Path) -> Path:
        return target.with_name(f".{target.name}.parts")

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

        Raises:
            DatasetError: the disk has no room for it.
        """
        needed = sum(self.part(number).stat().st_size for number in parts.values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:  # HDF5 does not survive a disk that fills up
            raise DatasetError(
                f"{self.target} takes {needed / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB left. Make "
                "room and run the same command again: what is recorded is kept."
            )
        with replace_atomically(self.target) as temporary, h5py.File(temporary, "w") as file:
            data = file.create_group("data")
            total = 0
            for demo, number in parts.items():
                with h5py.File(self.part(number), "r") as part:
                    part.copy("demo", data, name=demo)
                    total += len(cast(h5py.Dataset, part["demo/actions"]))
            data.attrs["total"] = total
            data.attrs["env_args"] = json.dumps(env_args, indent=4)
            for key, demos in masks.items():
                file.create_dataset(f"mask/{key}", data=np.array(demos, dtype="S"))
        shutil.rmtree(self.folder)


def write_part(path: Path, demonstration: Demonstration) -> None:
    """Write one part file of a :class:`DemonstrationWriter`, atomically."""
    content = io.BytesIO()  # in memory first: HDF5 does not survive a disk that fills up
    with h5py.File(content, "w") as file:
        demonstration.write(file.create_group("demo"))
    write_bytes(path, content.getvalue())


def split_masks(demos: Sequence[str], every: int = 10) -> dict[str, list[str]]:
    """The masks `train` and `valid`: every tenth demonstration is held out (none if there are fewer)."""
    valid = list(demos[every - 1 :: every])
    return {"train": [demo for demo in demos if demo not in valid], "valid": valid}
