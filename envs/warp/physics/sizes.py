"""Sizes of objects that differ from world to world, written into the batched model in place.

In Lift the seed decides the cube's half sides. On the host MuJoCo itself says what follows from them
(:mod:`fibo_robot.envs.simulation.geometry`); the arrays that differ get a world axis on the device before
anything is captured, and rows of them are replaced when an episode begins.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import warp as wp
from torch import Tensor

from fibo_robot.envs.simulation.geometry import LARGEST, SMALLEST, CubeGeometry
from fibo_robot.envs.untyped import MjModel, import_mujoco
from fibo_robot.envs.warp.exporting.export import TaskExport


class WorldSizes:
    """The arrays of a batched model that depend on the sizes of objects; none in most tasks."""

    def __init__(self, export: TaskExport, model: Any, num_worlds: int) -> None:
        """Give those arrays a world axis.

        Args:
            export: the task.
            model: MuJoCo Warp's, changed in place.
            num_worlds: length of the axis.
        """
        self._views: dict[str, Tensor] = {}
        self._cube: CubeGeometry | None = None
        if export.settings["env_name"] != "Lift":
            return
        self._host = export.mujoco_model()
        self._data = import_mujoco().MjData(self._host)
        self._cube = CubeGeometry(self._host, export.model_xml)
        built = self._cube.size.copy()
        small, large = (self._fields(np.array(size), model) for size in (SMALLEST, LARGEST))
        differing = [name for name in small if not np.array_equal(small[name], large[name])]
        fields = self._fields(built, model)
        for name in differing:
            owner, attribute = _owner(model, name)
            old = getattr(owner, attribute)
            rows = np.repeat(fields[name][None].astype(np.float32), num_worlds, axis=0)
            array = wp.array(rows, dtype=old.dtype, device=old.device)
            setattr(owner, attribute, array)
            self._views[name] = wp.to_torch(array)

    def rows_of(self, model: Any, count: int) -> tuple[Any, list[tuple[Any, Any]]]:
        """A model of `count` worlds that shares the rest with `model`, and pairs of sizes in both."""
        if not self._views:
            return model, []
        fewer = dataclasses.replace(model, stat=dataclasses.replace(model.stat))
        pairs = []
        for name in self._views:
            owner, attribute = _owner(fewer, name)
            array = getattr(owner, attribute)
            own = wp.clone(array[:count])
            setattr(owner, attribute, own)
            pairs.append((array, own))
        return fewer, pairs

    def write(self, index: Tensor, scenes: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the sizes of scenes into the worlds `index`."""
        if self._cube is None:
            return
        rows = [self._fields(scene["cube_size"], None) for scene in scenes]
        for name, view in self._views.items():
            values = np.stack([row[name] for row in rows])
            view[index] = torch.from_numpy(values).to(view)

    def _fields(self, size: np.ndarray, model: Any) -> dict[str, np.ndarray]:
        """What the model of a cube of this size holds, by name, for one world."""
        assert self._cube is not None
        self._cube.resize(size, self._data)
        if model is None:
            return {
                name: _host(self._host, name).reshape(view.shape[1:]) for name, view in self._views.items()
            }
        return {name: _host(self._host, name) for name in _batched(model, self._host)}


def _batched(model: Any, host: MjModel) -> list[str]:
    """Names of a batched model's arrays that have a leading world axis and a counterpart on the host."""
    names = ["stat.meaninertia"]
    for name in vars(model):
        array, there = getattr(model, name), getattr(host, name, None)
        if not isinstance(array, wp.array) or not isinstance(there, np.ndarray):
            continue
        if there.dtype == np.float64 and array.ndim >= 2 and array.shape[:2] == (1, len(there)):
            names.append(name)
    return names


def _owner(owner: Any, name: str) -> tuple[Any, str]:
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    return owner, attribute


def _host(model: MjModel, name: str) -> np.ndarray:
    return np.array(getattr(*_owner(model, name)), np.float64)  # a copy: the host's model changes
