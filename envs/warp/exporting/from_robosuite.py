"""Making an export: what reads robosuite's own objects, and refuses what has no counterpart here."""

import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.untyped import import_mujoco
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import (
    Arm,
    SuccessRule,
    TaskExport,
    cache_folder,
    flat,
    simulation_settings,
)
from fibo_robot.envs.warp.runtime import versions
from fibo_robot.extras import installed_version

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task

_JOINTS = 7


def cached_export(task: "Task", folder: Path | None = None) -> TaskExport:
    """:func:`export_task`, kept in `folder` (default: the task's cache folder).

    Raises:
        WarpError: there is no export of this version, and no robosuite to make one.
    """
    path = (folder or cache_folder(task)) / "model.zip"
    has_robosuite = importlib.util.find_spec("robosuite") is not None
    if path.exists():
        # A file that this version cannot read is made again where that is possible.
        with suppress(*((WarpError,) if has_robosuite else ())):
            export = TaskExport.load(path)
            if not has_robosuite or export.versions.get("robosuite") == _robosuite_version():
                export.check_fits(task, str(path))
                return export
    if not has_robosuite:
        raise WarpError(
            f"The task {task.name} is not exported at {path.parent}, and robosuite is not installed here: "
            "install the extra sim, or copy that folder from a machine that has it."
        )
    export = export_task(task)
    export.save(path)
    return export


def export_task(task: "Task") -> TaskExport:
    """Compile a task with robosuite and note all that must be known of it.

    Raises:
        WarpError: its controller, gripper, observations or success rule have no counterpart here.
    """
    if task.env_name not in _SUCCESS:
        raise WarpError(
            f"The task {task.name} ({task.env_name}) has no success rule for batched simulation; there are "
            f"those of {', '.join(_SUCCESS)}. Roll it out with the engine local."
        )
    env = SimulationEnv(task, [], render_mode=None)
    try:
        return export_environment(task, env)
    finally:
        env.close()


def export_environment(task: "Task", env: SimulationEnv) -> TaskExport:
    """:func:`export_task` of an environment of `task` that has not begun an episode yet."""
    robosuite, model = env._robosuite, env._model
    if not robosuite.lite_physics:
        raise _unsupported(task, "lite_physics=False")
    mujoco = import_mujoco()
    content = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    return TaskExport(
        settings=simulation_settings(task),
        model=content.tobytes(),
        model_xml=env.model_xml,
        arms=tuple(_arm(task, model, robot) for robot in robosuite.robots),
        success=_SUCCESS[task.env_name](robosuite),
        substeps=int(robosuite.control_timestep / robosuite.model_timestep),
        versions={**versions(), "robosuite": _robosuite_version()},
    )


def _robosuite_version() -> str:
    return installed_version("robosuite", extra="sim", purpose="Exporting a task")


def _unsupported(task: "Task", what: str) -> WarpError:
    return WarpError(
        f"Batched simulation has no {what}, which the task {task.name} uses: roll it out with the "
        "engine local."
    )


def _arm(task: "Task", model: Any, robot: Any) -> Arm:
    if len(robot.arms) != 1:
        raise _unsupported(task, f"robot with {len(robot.arms)} arms")
    name = robot.arms[0]
    controller = robot.composite_controller.get_controller(name)
    gripper = robot.gripper[name]
    fingers = robot.composite_controller.get_controller(robot.get_gripper_name(name))
    for wrong, what in (
        (robot.composite_controller.name != "BASIC", f"controller {robot.composite_controller.name}"),
        (controller.name != "OSC_POSE", f"controller {controller.name}"),
        (controller.impedance_mode != "fixed", f"impedance mode {controller.impedance_mode}"),
        (controller.input_ref_frame != "world", f"actions in the frame {controller.input_ref_frame}"),
        (controller.interpolator_pos or controller.interpolator_ori, "interpolation between goals"),
        (type(gripper).__name__ != "PandaGripper", f"gripper {type(gripper).__name__}"),
        (type(fingers).__name__ != "SimpleGripController", f"gripper control {type(fingers).__name__}"),
        (not fingers.use_action_scaling, "gripper control without scaling"),
        (len(controller.joint_index) != _JOINTS, f"arm of {len(controller.joint_index)} joints"),
        ((model.jnt_type[controller.joint_index] != _HINGE).any(), "arm with other joints than hinges"),
    ):
        if wrong:
            raise _unsupported(task, what)
    actuators = robot._ref_actuators_indexes_dict
    return Arm(
        prefix=robot.robot_model.naming_prefix.rstrip("_"),
        joints=_ints(controller.joint_index),
        qpos=_ints(controller.qpos_index),
        qvel=_ints(controller.qvel_index),
        actuators=_ints(actuators[name]),
        site=model.site(controller.ref_name).id,
        hand_body=model.body(robot.robot_model.eef_name[name]).id,
        eef_site=int(robot.eef_site_id[name]),
        finger_qpos=_ints(robot._ref_gripper_joint_pos_indexes[name]),
        finger_qvel=_ints(robot._ref_gripper_joint_vel_indexes[name]),
        finger_actuators=_ints(actuators[robot.get_gripper_name(name)]),
        # PandaGripper.format_action: closing moves one finger down its range and the other up.
        finger_signs=(-1.0, 1.0),
        finger_speed=float(gripper.speed),
        kp=flat(controller.kp),
        kd=flat(controller.kd),
        input_min=flat(controller.input_min),
        input_max=flat(controller.input_max),
        output_min=flat(controller.output_min),
        output_max=flat(controller.output_max),
        absolute=controller.input_type == "absolute",
        uncoupled=bool(controller.uncoupling),
    )


_HINGE = 3  # mujoco.mjtJoint.mjJNT_HINGE


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _geoms(robosuite: Any, names: Any) -> tuple[int, ...]:
    return tuple(robosuite.sim.model.geom_name2id(name) for name in names)


def _lift(robosuite: Any) -> SuccessRule:
    return SuccessRule({"table_height": flat(robosuite.model.mujoco_arena.table_offset[2])}, {})


def _can(robosuite: Any) -> SuccessRule:
    """The bin of each object, as corners; robosuite asks whether any of its objects lies in its own bin."""
    if robosuite.single_object_mode not in (1, 2):
        raise WarpError("Batched simulation judges PickPlace with a single object only.")
    corners = {}
    for index, thing in enumerate(robosuite.objects):
        low = np.array(robosuite.bin2_pos, np.float64)
        low[0] -= robosuite.bin_size[0] / 2 if index in (0, 2) else 0.0
        low[1] -= robosuite.bin_size[1] / 2 if index < 2 else 0.0
        high = low + np.array([robosuite.bin_size[0] / 2, robosuite.bin_size[1] / 2, 0.1])
        corners[thing.root_body] = flat([low, high])
    return SuccessRule(corners, {})


def _square(robosuite: Any) -> SuccessRule:
    """The peg of each nut; robosuite asks whether any nut lies around its own peg."""
    if robosuite.single_object_mode == 0:
        raise WarpError("Batched simulation judges NutAssembly with a single nut only.")
    pegs = (robosuite.peg1_body_id, robosuite.peg2_body_id)
    numbers = {
        nut.root_body: flat([*robosuite.sim.data.body_xpos[peg][:2], robosuite.table_offset[2] + 0.05])
        for nut, peg in zip(robosuite.nuts, pegs, strict=True)
    }
    return SuccessRule(numbers, {})


def _stack(robosuite: Any) -> SuccessRule:
    gripper = robosuite.robots[0].gripper["right"]
    cube = _geoms(robosuite, robosuite.cubeA.contact_geoms)
    touching = {
        f"cubeA_{side}": (_geoms(robosuite, gripper.important_geoms[f"{side}_fingerpad"]), cube)
        for side in ("left", "right")
    }
    touching["cubes"] = (cube, _geoms(robosuite, robosuite.cubeB.contact_geoms))
    return SuccessRule({"table_height": flat(robosuite.table_offset[2])}, touching)


def _tool_hang(robosuite: Any) -> SuccessRule:
    gripper = robosuite.robots[0].gripper["right"]
    hand = [name for names in gripper.important_geoms.values() for name in names]
    holes = [f"tool_hole1_hc_{index}" for index in range(robosuite.tool_args["ngeoms"])]
    reach = robosuite.tool_args["inner_radius_1"] - robosuite.frame_args["frame_thickness"] / 2.0
    touching = {
        "hand_tool": (_geoms(robosuite, hand), _geoms(robosuite, robosuite.tool.contact_geoms)),
        "hole_hook": (_geoms(robosuite, holes), _geoms(robosuite, ["frame_horizontal_frame"])),
    }
    return SuccessRule({"reach": flat(reach), "hole_geoms": (float(len(holes)),)}, touching)


def _transport(robosuite: Any) -> SuccessRule:
    things = robosuite.transport
    pairs = {
        "payload_in_target_bin": (things.target_bin.base_geoms, things.payload.contact_geoms),
        "trash_in_trash_bin": (things.trash_bin.base_geoms, things.trash.contact_geoms),
    }
    touching = {
        name: (_geoms(robosuite, first), _geoms(robosuite, second)) for name, (first, second) in pairs.items()
    }
    return SuccessRule({}, touching)


_SUCCESS = {
    "Lift": _lift,
    "PickPlaceCan": _can,
    "NutAssemblySquare": _square,
    "Stack": _stack,
    "ToolHang": _tool_hang,
    "TwoArmTransport": _transport,
}
