"""What the observation `object` holds: named numbers in one order, whatever robosuite's version.

robosuite 1.4 and 1.5 put the same numbers into another order, with another sign in Lift, and 1.5.2 computes
what is relative to the gripper from where the object was when it was last looked at. Here the order is fixed
(that of robomimic's published files: an object's pose in the world comes first), and every number is of the
present state.

Names are robosuite's. Positions are metres, quaternions `(x, y, z, w)`:
    `X_pos`, `X_quat`                       the pose of X in the world
    `X_to_robot0_eef_pos`, `…_quat`         its pose in the frame of the gripper; the quaternion's w is >= 0
    `gripper_to_cube_pos`, `gripper_to_X`   position of the cube minus that of the gripper, world axes
    `cubeA_to_cubeB`                        position of cube B minus that of cube A, world axes
What Transport observes, and ToolHang's two flags, are robosuite's own. So is everything in environments that
have no order here: there `object` holds what robosuite senses of the objects, sensor after sensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from fibo_robot.envs.untyped import MjData, import_mujoco

Kind = Literal["pos", "quat", "relative_pos", "relative_quat", "difference", "sensed"]

NO_ENTRIES: Mapping[str, int] = MappingProxyType({})  # of a task that has one of our orders
TURNED = "gripper_to_cube_pos"  # robosuite up to 1.4: the gripper's position minus the cube's
BETWEEN = "cubeA_to_cubeB"


@dataclass(frozen=True)
class SceneObject:
    """Where the simulator keeps the pose of an object.

    Attributes:
        name: in observations.
        element: kind of the model's element, and its name there.
        nonnegative_w: of the two quaternions that mean its rotation, robosuite gives the one with w >= 0;
            where False, the simulator's.
    """

    name: str
    element: tuple[Literal["body", "geom", "site"], str]
    nonnegative_w: bool = False


@dataclass(frozen=True)
class Entry:
    """Some of the numbers of `object`.

    Attributes:
        name: robosuite's.
        size: how many.
        kind: how they are computed; `sensed` are robosuite's own.
        of: the object that they are of.
    """

    name: str
    size: int
    kind: Kind = "sensed"
    of: SceneObject | None = None


_CUBE = SceneObject("cube", ("body", "cube_main"))
_CUBE_A = SceneObject("cubeA", ("body", "cubeA_main"))
_CUBE_B = SceneObject("cubeB", ("body", "cubeB_main"))
_CAN = SceneObject("Can", ("body", "Can_main"))
_GROCERIES = (
    *(SceneObject(name, ("body", f"{name}_main")) for name in ("Milk", "Bread", "Cereal")),
    _CAN,
)
_NUT = SceneObject("SquareNut", ("body", "SquareNut_main"))
_STAND = SceneObject("base", ("geom", "stand_base"), nonnegative_w=True)
_FRAME = SceneObject("frame", ("site", "frame_intersection_site"), nonnegative_w=True)
_TOOL = SceneObject("tool", ("body", "tool_root"), nonnegative_w=True)

# The objects of robosuite's environments; the first is the one that the task is about.
SCENE_OBJECTS: dict[str, tuple[SceneObject, ...]] = {
    "Lift": (_CUBE,),
    "PickPlaceCan": (_CAN,),
    "NutAssemblySquare": (_NUT,),
    "Stack": (_CUBE_A, _CUBE_B),
    "PickPlace": _GROCERIES,
    "ToolHang": (_FRAME, _TOOL, _STAND),
    "TwoArmTransport": (
        SceneObject("payload", ("body", "payload_root")),
        SceneObject("trash", ("body", "trash_main")),
        SceneObject("lid", ("body", "transport_start_bin_lid_root")),
        SceneObject("target_bin", ("body", "transport_target_bin_root")),
        SceneObject("trash_bin", ("body", "transport_trash_bin_root")),
    ),
}


def _poses(*objects: SceneObject) -> tuple[Entry, ...]:
    """Each object's pose in the world, then in the gripper's frame."""
    return tuple(
        entry
        for of in objects
        for entry in (
            Entry(f"{of.name}_pos", 3, "pos", of),
            Entry(f"{of.name}_quat", 4, "quat", of),
            Entry(f"{of.name}_to_robot0_eef_pos", 3, "relative_pos", of),
            Entry(f"{of.name}_to_robot0_eef_quat", 4, "relative_quat", of),
        )
    )


# What `object` holds in each of robosuite's environments, in this order.
OBJECT_STATES: dict[str, tuple[Entry, ...]] = {
    "Lift": (*_poses(_CUBE)[:2], Entry(TURNED, 3, "difference", _CUBE)),
    "PickPlaceCan": _poses(_CAN),
    "NutAssemblySquare": _poses(_NUT),
    "PickPlace": _poses(*_GROCERIES),
    "Stack": (
        *_poses(_CUBE_A)[:2],
        *_poses(_CUBE_B)[:2],
        Entry("gripper_to_cubeA", 3, "difference", _CUBE_A),
        Entry("gripper_to_cubeB", 3, "difference", _CUBE_B),
        Entry(BETWEEN, 3),
    ),
    "ToolHang": (*_poses(_STAND, _FRAME, _TOOL), Entry("frame_is_assembled", 1), Entry("tool_on_frame", 1)),
    "TwoArmTransport": (
        Entry("payload_pos", 3),
        Entry("payload_quat", 4),
        Entry("trash_pos", 3),
        Entry("trash_quat", 4),
        Entry("lid_handle_pos", 3),
        Entry("lid_handle_quat", 4),
        Entry("target_bin_pos", 3),
        Entry("trash_bin_pos", 3),
        Entry("payload_in_target_bin", 1),
        Entry("trash_in_trash_bin", 1),
        Entry("gripper0_to_payload", 3),
        Entry("gripper0_to_lid_handle", 3),
        Entry("gripper1_to_payload", 3),
        Entry("gripper1_to_trash", 3),
    ),
}


def object_entries(env_name: str, own: Mapping[str, int] = NO_ENTRIES) -> tuple[Entry, ...]:
    """What `object` holds, in order.

    Args:
        env_name: robosuite's environment.
        own: names and lengths in a task that has none of our orders (`Task.object_entries`).
    """
    return tuple(Entry(name, size) for name, size in own.items()) if own else OBJECT_STATES[env_name]


def object_slices(env_name: str, own: Mapping[str, int] = NO_ENTRIES) -> dict[str, slice]:
    """Where each named entry lies in `object`; see :func:`object_entries`."""
    slices, begin = {}, 0
    for entry in object_entries(env_name, own):
        slices[entry.name] = slice(begin, begin + entry.size)
        begin += entry.size
    return slices


def object_positions(env_name: str, data: MjData) -> dict[str, np.ndarray]:
    """World positions of the task's objects by name, float64 `(3,)`, metres."""
    return {of.name: _element(data, of).xpos.copy() for of in SCENE_OBJECTS[env_name]}


def sensed_positions(sensed: Mapping[str, np.ndarray], own: Mapping[str, int]) -> dict[str, np.ndarray]:
    """:func:`object_positions` in a task that has none of our orders: what robosuite calls `X_pos`."""
    return {
        name.removesuffix("_pos"): np.array(sensed[name], np.float64)
        for name, size in own.items()
        if name.endswith("_pos") and "_to_" not in name and size == 3
    }


def object_state(env_name: str, data: MjData, sensed: Mapping[str, np.ndarray]) -> np.ndarray:
    """The observation `object` of the present state, float64 `(D,)`.

    Args:
        env_name: robosuite's environment.
        data: of its simulator, with positions up to date.
        sensed: robosuite's own observations of this state by name. The gripper's pose comes from them, and
            whatever is no pose of an object.
    """
    return np.concatenate([np.atleast_1d(_value(e, data, sensed)) for e in OBJECT_STATES[env_name]])


def _value(entry: Entry, data: MjData, sensed: Mapping[str, np.ndarray]) -> np.ndarray:
    if entry.of is None:
        return np.asarray(sensed[entry.name], np.float64)
    position, quaternion = _world_pose(data, entry.of)
    if entry.kind == "pos":
        return position
    if entry.kind == "quat":
        return np.roll(_upper(quaternion) if entry.of.nonnegative_w else quaternion, -1)
    if entry.kind == "difference":
        return position - sensed["robot0_eef_pos"]
    position, quaternion = _in_gripper(position, quaternion, sensed)
    return position if entry.kind == "relative_pos" else np.roll(_upper(quaternion), -1)


def _element(data: MjData, of: SceneObject) -> Any:
    kind, name = of.element
    return getattr(data, kind)(name)


def _world_pose(data: MjData, of: SceneObject) -> tuple[np.ndarray, np.ndarray]:
    """Position and quaternion, w first as MuJoCo has it."""
    mujoco = import_mujoco()

    element = _element(data, of)
    if of.element[0] == "body":
        return element.xpos.copy(), element.xquat.copy()
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, element.xmat)
    return element.xpos.copy(), quaternion


def _in_gripper(
    position: np.ndarray, quaternion: np.ndarray, sensed: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    mujoco = import_mujoco()

    gripper_quaternion = np.roll(np.asarray(sensed["robot0_eef_quat"], np.float64), 1)
    inverse = np.empty(3), np.empty(4)
    mujoco.mju_negPose(*inverse, np.asarray(sensed["robot0_eef_pos"], np.float64), gripper_quaternion)
    relative = np.empty(3), np.empty(4)
    mujoco.mju_mulPose(*relative, *inverse, position, quaternion)
    return relative


def _upper(quaternion: np.ndarray) -> np.ndarray:
    """The one of the two quaternions of a rotation whose w, here the first entry, is not negative."""
    return -quaternion if quaternion[0] < 0 else quaternion
