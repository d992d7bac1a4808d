"""Configurations of robosuite's controllers: robomimic's, and those of files of every robosuite version.

robosuite 1.4 and before describe one arm's controller; robosuite 1.5 wants a composite controller. Its own
conversion keeps quiet about a change of meaning: its default counts deltas in the frame of the robot's base,
where the old one counted them in the world frame. That is another motion wherever a base is turned, as both
are in Transport. The conversion here keeps the world frame.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fibo_robot.envs.errors import DatasetError
from fibo_robot.interfaces import ActionSpec

ARMS = ("right", "left")  # what a composite configuration calls the arms of one robot
_RENAMED = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}  # by robosuite 1.4
_FOREIGN = ("control_delta", "gripper")
_TWO_ARMED = frozenset({"Baxter"})  # the only such robot of robosuite 1.4


def osc_pose_controller() -> dict[str, Any]:
    """robosuite's composite configuration of robomimic's controller.

    Operational-space control of one Panda arm: six deltas in the world frame (5 cm and 0.5 rad at action 1)
    and the gripper (+1 closes). robosuite 1.5's own default counts deltas in the frame of the robot's base;
    robomimic's datasets, recorded with robosuite 1.4 and before, count them in the world frame.
    """
    arm = {
        "type": "OSC_POSE",
        "input_max": 1,
        "input_min": -1,
        "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
        "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
        "kp": 150,
        "damping_ratio": 1,
        "impedance_mode": "fixed",
        "kp_limits": [0, 300],
        "damping_ratio_limits": [0, 10],
        "position_limits": None,
        "orientation_limits": None,
        "uncouple_pos_ori": True,
        "input_type": "delta",
        "input_ref_frame": "world",
        "interpolation": None,
        "ramp_ratio": 0.2,
        "gripper": {"type": "GRIP"},
    }
    return {"type": "BASIC", "body_parts": {"right": arm}}


def controller_mode(controller: Mapping[str, Any]) -> str | None:
    """`delta` or `absolute`, as a composite controller's arms read actions; None where they do not say."""
    modes = {part.get("input_type") for part in _arms(controller)}
    return modes.pop() if len(modes) == 1 else None


def is_osc_pose(controller: Mapping[str, Any]) -> bool:
    """Whether every arm takes six numbers, a position and a rotation."""
    arms = _arms(controller)
    fixed = all(arm.get("impedance_mode", "fixed") == "fixed" for arm in arms)
    posed = all(arm.get("type") == "OSC_POSE" for arm in arms)
    return controller.get("type") == "BASIC" and bool(arms) and fixed and posed


def _arms(controller: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = controller.get("body_parts", {})
    return [parts[arm] for arm in ARMS if arm in parts]


def controller_actions(controller: Mapping[str, Any], arms: int) -> ActionSpec:
    """What the actions are that a composite controller of so many arms takes."""
    return (ActionSpec.poses if controller_mode(controller) == "absolute" else ActionSpec.deltas)(arms)


def composite_controller(config: Any, robots: Sequence[str], source: str) -> dict[str, Any]:
    """A file's `controller_configs` as robosuite 1.5's composite configuration.

    A composite configuration is returned as it is. An arm's `OSC_POSE` of robosuite 1.4 becomes one whose
    deltas (or absolute poses, for `control_delta: false`) count in the world frame.

    Args:
        config: one configuration, or a list of equal ones, one per robot.
        robots: robosuite's names of the robots.
        source: what to call the file in messages.

    Raises:
        DatasetError: if robots differ in their controllers, or an arm's is not `OSC_POSE`, or is of a robot
            with two arms, whose actions earlier versions put together in another order.
    """
    if isinstance(config, list) and config:
        if any(other != config[0] for other in config):
            raise DatasetError(f"The robots of {source} have different controllers, which is not supported.")
        config = config[0]
    if not isinstance(config, Mapping) or "type" not in config:
        raise DatasetError(f"The env_args of {source} name no controller (env_kwargs.controller_configs).")
    if "body_parts" in config:
        return dict(config)
    if config["type"] != "OSC_POSE":
        raise DatasetError(f"The controller of {source} is {config['type']}; only OSC_POSE can be converted.")
    if _TWO_ARMED.intersection(robots):
        raise DatasetError(
            f"{source} was recorded by a robot with two arms before robosuite 1.5, which puts the actions of "
            "its arms and grippers into another order; this is not supported."
        )
    arm = {_RENAMED.get(key, key): value for key, value in config.items() if key not in _FOREIGN}
    arm["input_type"] = "delta" if config.get("control_delta", True) else "absolute"
    arm["input_ref_frame"] = "world"
    arm["gripper"] = {"type": "GRIP"}
    return {"type": "BASIC", "body_parts": {"right": arm}}
