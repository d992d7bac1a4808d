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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.untyped import MjData, import_mujoco

Kind = Literal["pos", "quat", "relative_pos", "relative_quat", "difference", "sensed"]

_NONE: Mapping[str, int] = MappingProxyType({})
_TURNED = "gripper_to_cube_pos"  # robosuite up to 1.4: the gripper's position minus the cube's
_BETWEEN = "cubeA_to_cubeB"


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
    "Lift": (*_poses(_CUBE)[:2], Entry(_TURNED, 3, "difference", _CUBE)),
    "PickPlaceCan": _poses(_CAN),
    "NutAssemblySquare": _poses(_NUT),
    "PickPlace": _poses(*_GROCERIES),
    "Stack": (
        *_poses(_CUBE_A)[:2],
        *_poses(_CUBE_B)[:2],
        Entry("gripper_to_cubeA", 3, "difference", _CUBE_A),
        Entry("gripper_to_cubeB", 3, "difference", _CUBE_B),
        Entry(_BETWEEN, 3),
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


def object_entries(env_name: str, own: Mapping[str, int] = _NONE) -> tuple[Entry, ...]:
    """What `object` holds, in order.

    Args:
        env_name: robosuite's environment.
        own: names and lengths in a task that has none of our orders (`Task.object_entries`).
    """
    return tuple(Entry(name, size) for name, size in own.items()) if own else OBJECT_STATES[env_name]


def object_slices(env_name: str, own: Mapping[str, int] = _NONE) -> dict[str, slice]:
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


def stored_object_state(
    values: np.ndarray, env_args: Mapping[str, Any], source: str, own: Mapping[str, int] = _NONE
) -> np.ndarray:
    """The `object` observations of a robomimic file in this order and with these signs.

    robosuite 1.5 gives what is relative to the gripper from the object's pose when it was last looked at, so
    in files made with it (not by this program) these numbers lag one look behind; they are only moved here.

    Args:
        values: as stored, `(T, D)`.
        env_args: the file's environment metadata.
        source: what to call the file in messages.
        own: see :func:`object_entries`.

    Raises:
        DatasetError: if nothing says how the file's robosuite ordered them, or their number is another one.
    """
    env_name = env_args["env_name"]
    entries = object_entries(env_name, own) if own or env_name in OBJECT_STATES else ()
    names = [entry.name for entry in entries]
    ours = env_args.get("fibo_robot", {}).get("object_state")
    if ours is not None:
        if list(ours) != names:
            raise DatasetError(
                f"The object observations of {source} hold {', '.join(ours)}; this program has "
                f"{', '.join(names)}. Convert the file's states again with `fibo demos convert`."
            )
        return values
    generation = _generation(env_args)
    if generation is None or not names or (own and generation == "1.4"):
        raise DatasetError(
            f"{source} does not say in which order its object observations lie (env_version "
            f"{env_args.get('env_version') or 'missing'}, known are 1.0 to 1.5). Convert its states again "
            "with `fibo demos convert`, or train without the key object."
        )
    sizes = {entry.name: entry.size for entry in entries}
    if values.shape[-1] != sum(sizes.values()):
        raise DatasetError(
            f"The object observations of {source} have {values.shape[-1]} numbers, those of {env_name} have "
            f"{sum(sizes.values())}. Convert its states again with `fibo demos convert`."
        )
    stored = names if own else _stored_names(names, generation)
    ends = np.cumsum([sizes[name] for name in stored])
    parts = dict(zip(stored, np.split(values, ends[:-1], axis=-1)))
    if generation == "1.4" and _TURNED in parts:
        parts[_TURNED] = -parts[_TURNED]
    return np.concatenate([parts[name] for name in names], axis=-1)


def _generation(env_args: Mapping[str, Any]) -> Literal["1.4", "1.5"] | None:
    """Whose order a file's `object` has: robosuite's up to 1.4, or 1.5's; None where nothing tells.

    robomimic's first files name no version. They were made before robosuite 1.5, which is told by their
    controllers: 1.5 has no configuration that is one arm's alone.
    """
    version = env_args.get("env_version")
    if version is None:
        controllers = env_args.get("env_kwargs", {}).get("controller_configs")
        first = controllers[0] if isinstance(controllers, list) and controllers else controllers
        return "1.4" if isinstance(first, Mapping) and "type" in first and "body_parts" not in first else None
    major, _, minor = ".".join(str(version).split(".")[:2]).partition(".")
    if major != "1" or minor not in ("0", "1", "2", "3", "4", "5"):
        return None
    return "1.5" if minor == "5" else "1.4"


def _stored_names(names: Sequence[str], generation: Literal["1.4", "1.5"]) -> list[str]:
    """The names of :data:`OBJECT_STATES` in the order in which that robosuite stores them."""
    stored = list(names)
    if generation == "1.4":  # in Transport, whether things are where they belong comes last
        return sorted(stored, key=lambda name: name.endswith(("_in_target_bin", "_in_trash_bin")))
    for name in names:  # an object's pose in the gripper's frame comes before its pose in the world
        if name.endswith("_to_robot0_eef_pos"):
            at = names.index(name)
            stored[at - 2 : at + 2] = [*names[at : at + 2], *names[at - 2 : at]]
    if _BETWEEN in stored:  # in Stack, the way between the cubes comes before the ways from the gripper
        stored.remove(_BETWEEN)
        stored.insert(stored.index("gripper_to_cubeA"), _BETWEEN)
    return stored
