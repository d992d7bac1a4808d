"""robomimic's environment metadata, old and new, and robosuite's own, read as a :class:`Task`.

A registered task is a default that a file may name: with the registered robots and controller, everything
about it is known. Of any other environment, robot or controller, the simulator is asked.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fibo_robot.envs.controllers import composite_controller, controller_actions, is_osc_pose
from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.simulation.facts import SceneFacts, ask_simulator, unknown_arguments
from fibo_robot.envs.simulation.object_state import OBJECT_STATES
from fibo_robot.envs.tasks import TASKS, Task
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec

# How robosuite draws by itself, and so what pictures of files without our settings were made with.
_ROBOSUITE_QUALITY = RenderQuality(shadows=True, reflections=True, multisamples=4)
# robosuite's, of environments that are not registered, where neither the file nor its demonstrations say.
_HORIZON = 1000
_CONTROL_FREQ = 20
_RENAMED = {"mount_types": "base_types"}  # by robosuite 1.5

# Arguments of robosuite.make that change the scene or how it moves, and travel as they are. What is called
# "default", or is None, says nothing. Others travel where the environment takes them.
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


def env_args_of_robosuite(attributes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """robomimic's metadata for a file that robosuite's collection script wrote.

    Args:
        attributes: of its group `data`: `env_info` (JSON: arguments of `robosuite.make`), `env` (the name of
            the environment) and `repository_version` (of robosuite).
        source: what to call the file in messages.

    Raises:
        DatasetError: if the attributes cannot be read.
    """
    try:
        info = json.loads(attributes["env_info"])
        env_name = info.pop("env_name", None) or attributes["env"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{source} looks like a file of robosuite's collection script, but its env and env_info do not "
            f"name an environment ({error})."
        ) from error
    version = attributes.get("repository_version")
    made_with = {} if version is None else {"env_version": str(version)}
    return {"env_name": str(env_name), **made_with, "type": 1, "env_kwargs": info}


def task_from_env_args(
    env_args: Mapping[str, Any], source: str, horizon: Callable[[], int] = lambda: _HORIZON
) -> Task:
    """The task that a dataset's `env_args` describe.

    Args:
        env_args: robomimic's metadata, from any robosuite version, with or without our own beside it.
        source: what to call the file in messages.
        horizon: gives the horizon of an environment that is not registered, where `env_args` do not.

    Raises:
        DatasetError: if robosuite lacks the environment, its controller cannot be converted, or it was made
            with settings that cannot be carried over.
    """
    ours = env_args.get("fibo_robot", {}).get("task")
    if ours is not None:
        try:
            return Task.from_dict(ours)
        except (FiboError, KeyError, TypeError) as error:
            raise DatasetError(f"The task in the env_args of {source} cannot be read: {error}") from error
    env_name, kwargs = env_args["env_name"], env_args.get("env_kwargs", {})
    registered = {task.env_name: task for task in TASKS.values()}.get(env_name)
    robots = kwargs.get("robots", () if registered is None else registered.robots)
    robots = (robots,) if isinstance(robots, str) else tuple(robots)
    controller = composite_controller(kwargs.get("controller_configs"), robots, source)
    settings = {
        "robots": robots,
        "control_freq": int(kwargs.get("control_freq", _CONTROL_FREQ)),
        "controller": controller,
        "action": controller_actions(controller, len(robots)),
        "options": _options(env_name, kwargs, source),
    }
    if registered and robots == registered.robots and _needs_no_asking(settings):
        task = replace(registered, **settings)
    else:
        task = _asked(Task("asked", env_name, _HORIZON, (), {}, **settings), registered, source)
        task = task if registered else replace(task, horizon=horizon())
    if kwargs.get("horizon") is not None and not kwargs.get("ignore_done", False):
        task = replace(task, horizon=int(kwargs["horizon"]))
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


def recording_of(env_args: Mapping[str, Any]) -> dict[str, Any] | None:
    """How this package's scripted experts recorded a file, each demonstration from its `seed`; else None."""
    return env_args.get("fibo_robot", {}).get("recording")


def recorded_seeds(env_args: Mapping[str, Any], attributes: Iterable[Mapping[str, Any]]) -> list[int]:
    """From which seeds demonstrations with these attributes were recorded, ascending; none of other files."""
    if recording_of(env_args) is None:
        return []
    return sorted(int(demo["seed"]) for demo in attributes if "seed" in demo)


def _needs_no_asking(settings: Mapping[str, Any]) -> bool:
    """Whether observations and actions are those of the registered task."""
    return is_osc_pose(settings["controller"]) and "gripper_types" not in settings["options"]


def _asked(task: Task, registered: Task | None, source: str) -> Task:
    """`task` with what the simulator says of it."""
    facts = ask_simulator(task.env_name, task.robosuite_kwargs(), source)
    ordered = task.env_name in OBJECT_STATES and "robot0_eef_pos" in facts.low_dim
    own = {} if ordered else dict(facts.objects)
    sizes = own.values() if own else [entry.size for entry in OBJECT_STATES.get(task.env_name, ())]
    low_dim = {**facts.low_dim, "object": sum(sizes)} if sum(sizes) else dict(facts.low_dim)
    return replace(
        task,
        name=_short_name(task, registered),
        horizon=_HORIZON if registered is None else registered.horizon,
        image_size=84 if registered is None else registered.image_size,
        cameras=facts.cameras if registered is None else registered.cameras,
        low_dim=low_dim,
        object_entries=own,
        action=_action(task, facts, source),
    )


def _short_name(task: Task, registered: Task | None) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", task.env_name).lower()
    robots = [] if set(task.robots) == {"Panda"} else list(dict.fromkeys(task.robots))
    return "_".join([words if registered is None else registered.name, *map(str.lower, robots)])


def _action(task: Task, facts: SceneFacts, source: str) -> ActionSpec:
    """What an action is: of arms with grippers, as robomimic has them, or the simulator's bounds alone."""
    arms = len(task.robots)
    if facts.single_arms and len(facts.low) == 7 * arms and is_osc_pose(task.controller):
        return controller_actions(task.controller, arms)
    if task.action.mode == "absolute":
        raise DatasetError(
            f"{source} has absolute actions of {len(facts.low)} entries; understood are seven for "
            "each robot, which has one arm and a gripper."
        )
    if not all(map(math.isfinite, (*facts.low, *facts.high))):
        raise DatasetError(
            f"The actions of {source} have no bounds in robosuite ({task.controller.get('type')}), so they "
            "cannot be clipped: controllers of the whole body are not supported."
        )
    return ActionSpec(len(facts.low), facts.low, facts.high, rotation="none", arms=0)


def _options(env_name: str, kwargs: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The arguments of `robosuite.make` that are carried over; refuses those that would be dropped."""
    said = {
        _RENAMED.get(key, key): value
        for key, value in kwargs.items()
        if value is not None and value != "default" and key not in _TOLD_OTHERWISE
    }
    others = set(said).difference(_CARRIED)
    dropped = unknown_arguments(env_name, others) if others else []
    if dropped:
        settings = ", ".join(f"{key}={said[key]!r}" for key in dropped)
        raise DatasetError(
            f"{source} was recorded with {settings}, which robosuite does not take here: it would be lost. "
            "Remove it from env_kwargs in the file's env_args if it changes nothing in the scene."
        )
    return {key: said[key] for key in sorted(said)}
