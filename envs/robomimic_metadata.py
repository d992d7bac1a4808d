"""robomimic's environment metadata, old and new, read as a :class:`Task`.

Files recorded with robosuite 1.4 and before describe one arm's controller; robosuite 1.5 wants a composite
controller. robosuite's own conversion keeps quiet about a change of meaning: its default counts the deltas in
the frame of the robot's base, where the old one counted them in the world frame. That is another motion
wherever a base is turned, as both are in Transport. The conversion here keeps the world frame.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.simulation.rendering import RenderQuality
from fibo_robot.envs.tasks import TASKS, Task, controller_actions
from fibo_robot.errors import FiboError

# How robosuite draws by itself, and so what pictures of files without our settings were made with.
_ROBOSUITE_QUALITY = RenderQuality(shadows=True, reflections=True, multisamples=4)
_RENAMED = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}  # by robosuite 1.4
_FOREIGN = ("control_delta", "gripper")

# Arguments of robosuite.make that change the scene or how it moves, and travel as they are. What is called
# "default", or is None, says nothing.
_CARRIED = (
    "base_types",
    "env_configuration",
    "gripper_types",
    "initialization_noise",
    "lite_physics",
    "table_friction",
    "table_full_size",
    "table_offset",
)
# Those that the task says in its own way, and those that change nothing in an episode as it is played here:
# windows, pictures, rewards (here success), and when robosuite would end an episode.
_TOLD_OTHERWISE = (
    *("robots", "controller_configs", "control_freq", "camera_names", "camera_heights", "camera_widths"),
    *("has_renderer", "has_offscreen_renderer", "renderer", "renderer_config", "render_camera"),
    *("render_collision_mesh", "render_visual_mesh", "render_gpu_device_id"),
    *("use_camera_obs", "use_object_obs", "camera_depths", "camera_segmentations"),
    *("reward_scale", "reward_shaping", "horizon", "ignore_done", "hard_reset", "seed"),
)


def task_from_env_args(env_args: Mapping[str, Any], source: str) -> Task:
    """The task that a dataset's `env_args` describe.

    Args:
        env_args: robomimic's metadata, from any robosuite version, with or without our own beside it.
        source: what to call the file in messages.

    Raises:
        DatasetError: if the environment is not one of our tasks, its controller cannot be converted, or it
            was made with settings that cannot be carried over.
    """
    ours = env_args.get("fibo_robot", {}).get("task")
    if ours is not None:
        try:
            return Task.from_dict(ours)
        except (FiboError, KeyError, TypeError) as error:
            raise DatasetError(f"The task in the env_args of {source} cannot be read: {error}") from error
    by_env_name = {task.env_name: task for task in TASKS.values()}
    env_name = env_args["env_name"]
    if env_name not in by_env_name:
        raise DatasetError(f"{source} is of the environment {env_name}; known are: {', '.join(by_env_name)}.")
    task = by_env_name[env_name]
    kwargs = env_args.get("env_kwargs", {})
    robots = kwargs.get("robots", task.robots)
    robots = (robots,) if isinstance(robots, str) else tuple(robots)
    controller = composite_controller(kwargs.get("controller_configs"), source)
    task = replace(
        task,
        robots=robots,
        control_freq=int(kwargs.get("control_freq", task.control_freq)),
        controller=controller,
        action=controller_actions(controller, len(robots)),
        options=_options(kwargs, source),
    )
    cameras = kwargs.get("camera_names")
    if not cameras:
        return task
    heights = kwargs.get("camera_heights", task.image_size)
    return replace(
        task,
        cameras=(cameras,) if isinstance(cameras, str) else tuple(cameras),
        image_size=int(heights[0] if isinstance(heights, list) else heights),
        quality=_ROBOSUITE_QUALITY,
        renderer="egl",
    )


def _options(kwargs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The arguments of `robosuite.make` that are carried over; refuses those that would be dropped."""
    said = {key: value for key, value in kwargs.items() if value is not None and value != "default"}
    dropped = sorted(set(said).difference(_CARRIED, _TOLD_OTHERWISE))
    if dropped:
        settings = ", ".join(f"{key}={said[key]!r}" for key in dropped)
        raise DatasetError(
            f"{source} was recorded with {settings}, which would be lost here. Remove it from env_kwargs in "
            "the file's env_args if it changes nothing in the scene."
        )
    return {key: said[key] for key in _CARRIED if key in said}


def composite_controller(config: Any, source: str) -> dict[str, Any]:
    """A `controller_configs` entry as robosuite 1.5's composite configuration.

    A composite configuration is returned as it is. An arm's `OSC_POSE` of robosuite 1.4 becomes one whose
    deltas (or absolute poses, for `control_delta: false`) count in the world frame.

    Args:
        config: one configuration, or a list of equal ones, one per robot.
        source: what to call the file in messages.

    Raises:
        DatasetError: if robots differ in their controllers, or the controller is not `OSC_POSE`.
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
    arm = {_RENAMED.get(key, key): value for key, value in config.items() if key not in _FOREIGN}
    arm["input_type"] = "delta" if config.get("control_delta", True) else "absolute"
    arm["input_ref_frame"] = "world"
    arm["gripper"] = {"type": "GRIP"}
    return {"type": "BASIC", "body_parts": {"right": arm}}
