"""Vector observations of all worlds: robosuite's proprioception, and `object` in this program's own order."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
import torch
from torch import Tensor

from fibo_robot.envs.simulation.object_state import OBJECT_STATES, Entry, SceneObject
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import Arm, TaskExport
from fibo_robot.envs.warp.rules.scene import (
    Scene,
    columns,
    conjugate,
    constant,
    multiply,
    rotate,
    upper,
    w_last,
)

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task

_PROPRIOCEPTION = (
    "eef_pos",
    "eef_quat",
    "eef_quat_site",
    "gripper_qpos",
    "gripper_qvel",
    "joint_pos",
    "joint_pos_cos",
    "joint_pos_sin",
    "joint_vel",
)
# Of Transport's observations: objects whose poses robosuite senses itself.
_SENSED = {
    "payload": SceneObject("payload", ("body", "payload_root")),
    "trash": SceneObject("trash", ("body", "trash_main")),
    "lid_handle": SceneObject("lid_handle", ("geom", "transport_start_bin_lid_handle")),
    "target_bin": SceneObject("target_bin", ("geom", "transport_target_bin_base")),
    "trash_bin": SceneObject("trash_bin", ("geom", "transport_trash_bin_base")),
}


def check_keys(task: "Task", export: TaskExport, keys: Sequence[str]) -> None:
    """Refuse vector observations that have no counterpart here; raises WarpError."""
    known = {f"{arm.prefix}_{name}" for arm in export.arms for name in _PROPRIOCEPTION} | {"object"}
    if unknown := [key for key in keys if key in task.low_dim and key not in known]:
        raise WarpError(
            f"Batched simulation has no observation {', '.join(unknown)} of the task {task.name}: leave it "
            "out, or roll out with the engine local."
        )


def single_spaces(
    task: "Task", obs_keys: Sequence[str]
) -> tuple[gymnasium.spaces.Dict, gymnasium.spaces.Box]:
    """Observation and action spaces of one world."""
    spaces = {}
    for key in obs_keys:
        spec = task.observation_spec(key)
        low, high, kind = (0, 255, np.uint8) if spec.kind == "rgb" else (-np.inf, np.inf, np.float32)
        spaces[key] = gymnasium.spaces.Box(low, high, spec.shape, kind)
    low, high = (np.array(bound, np.float32) for bound in (task.action.low, task.action.high))
    return gymnasium.spaces.Dict(spaces), gymnasium.spaces.Box(low, high, dtype=np.float32)


def observe(
    export: TaskExport, scene: Scene, flags: Mapping[str, Tensor], keys: Sequence[str]
) -> dict[str, Tensor]:
    """Vectors float32 `(W, D)` by key, of the present state, in tensors of their own.

    Args:
        export: whose arms and objects they are.
        scene: the present scenes.
        flags: what the success rule found, by name.
        keys: which.
    """
    values = {}
    for key in keys:
        if key == "object":
            entries = OBJECT_STATES[export.settings["env_name"]]
            parts = [_entry(entry, export, scene, flags) for entry in entries]
            values[key] = torch.cat(parts, -1).float()
        else:
            prefix, name = key.split("_", 1)
            arm = next(arm for arm in export.arms if arm.prefix == prefix)
            values[key] = _proprioception(name, arm, scene).float()
    return values


def _proprioception(name: str, arm: Arm, scene: Scene) -> Tensor:
    match name:
        case "eef_pos":
            return scene.site_pos[:, arm.eef_site].clone()
        case "eef_quat":
            return w_last(scene.body_quat[:, arm.hand_body])
        case "eef_quat_site":
            site = scene.model.site(arm.eef_site)
            carrier = scene.body_quat[:, int(site.bodyid[0])]
            return w_last(upper(multiply(carrier, constant(site.quat, carrier))))
        case "gripper_qpos":
            return columns(scene.qpos, arm.finger_qpos)
        case "gripper_qvel":
            return columns(scene.qvel, arm.finger_qvel)
        case "joint_vel":
            return columns(scene.qvel, arm.qvel)
    angles = columns(scene.qpos, arm.qpos)
    return {"joint_pos": angles, "joint_pos_cos": angles.cos(), "joint_pos_sin": angles.sin()}[name]


def _entry(entry: Entry, export: TaskExport, scene: Scene, flags: Mapping[str, Tensor]) -> Tensor:
    """Some of the numbers of `object`, `(W, entry.size)`; the counterpart of `object_state` on the host."""
    if entry.of is None:
        return _sensed(entry.name, export, scene, flags)
    position, quaternion = scene.pose(entry.of)
    hand = scene.site_pos[:, export.arms[0].eef_site]
    match entry.kind:
        case "pos":
            return position
        case "quat":
            return w_last(upper(quaternion) if entry.of.nonnegative_w else quaternion)
        case "difference":
            return position - hand
    inverse = conjugate(scene.body_quat[:, export.arms[0].hand_body])
    if entry.kind == "relative_pos":
        return rotate(inverse, position - hand)
    return w_last(upper(multiply(inverse, quaternion)))


def _sensed(name: str, export: TaskExport, scene: Scene, flags: Mapping[str, Tensor]) -> Tensor:
    if name in flags:
        return flags[name][:, None].float()
    if name == "cubeA_to_cubeB":
        return scene.position("body", "cubeB_main") - scene.position("body", "cubeA_main")
    if name.startswith("gripper"):  # gripper1_to_trash
        gripper, thing = name.split("_to_")
        hand = scene.site_pos[:, export.arms[int(gripper.removeprefix("gripper"))].eef_site]
        return scene.pose(_SENSED[thing])[0] - hand
    thing, kind = name.rsplit("_", 1)
    position, quaternion = scene.pose(_SENSED[thing])
    return position if kind == "pos" else w_last(upper(quaternion))
