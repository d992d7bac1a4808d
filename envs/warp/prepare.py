"""Whether worlds of a task can be had here, asked before anything that takes long or much."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import TaskExport
from fibo_robot.envs.warp.exporting.from_robosuite import cached_export
from fibo_robot.envs.warp.physics.capacity import CAPACITIES, Capacity, memory_needed
from fibo_robot.envs.warp.runtime import check_memory, import_warp, resolve_device

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task


@dataclass(frozen=True)
class Prepared:
    """What worlds are made of.

    Attributes:
        device: where they will lie.
        export: the task's compiled model.
        capacity: room for contacts and constraints.
    """

    device: torch.device
    export: TaskExport
    capacity: Capacity


def prepare(
    task: "Task",
    num_worlds: int,
    device: str | torch.device,
    obs_keys: Sequence[str] = (),
    export: TaskExport | None = None,
    capacity: Capacity | None = None,
) -> Prepared:
    """Check device, versions, task and memory, in this order; nothing is allocated on the device.

    Args:
        task: what to simulate.
        num_worlds: how many worlds.
        device: `cuda`, `cuda:1`, or `cpu`.
        obs_keys: what will be observed; pictures take memory.
        export: the compiled model; default: from the cache, or made here with robosuite.
        capacity: room for contacts and constraints; default: measured for the task, with a margin.

    Raises:
        WarpError: one of them does not allow it.
    """
    if num_worlds < 1:
        raise WarpError(f"There must be at least one world, not {num_worlds}.")
    place = resolve_device(device)
    import_warp()
    export = export or cached_export(task)
    export.check_fits(task)
    capacity = capacity or CAPACITIES[task.env_name]
    cameras = sum(key in task.image_keys for key in obs_keys)
    memory = memory_needed(export.mujoco_model(), capacity, cameras, task.image_size**2)
    check_memory(memory, num_worlds, place)
    return Prepared(place, export, capacity)
