"""The simulated tasks, by name: which robosuite environment, what is observed, how pictures are drawn.

A :class:`Task` is plain data. It travels as JSON inside datasets and checkpoints, so that whoever evaluates a
policy builds the same environment that its demonstrations came from. Building one needs no simulator.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, overload

import gymnasium

from fibo_robot import __version__
from fibo_robot.envs.controllers import controller_actions, controller_mode, osc_pose_controller
from fibo_robot.envs.pusht import PushTEnv, PushTTask
from fibo_robot.envs.rendering.settings import RenderQuality, resolve_renderer
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.simulation.object_state import object_slices
from fibo_robot.errors import FiboError, did_you_mean
from fibo_robot.extras import installed_version
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta

ARM_LOW_DIM = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
SECOND_ARM_LOW_DIM = {key.replace("robot0", "robot1"): size for key, size in ARM_LOW_DIM.items()}
_VERSIONED = ("robosuite", "mujoco", "numpy", "gymnasium", "gym-pusht", "pymunk")


@dataclass(frozen=True)
class Task:
    """One simulated task and how it is observed.

    Attributes:
        name: short name, as in `get_task`.
        env_name: robosuite's environment.
        horizon: control steps after which an episode is cut off.
        cameras: cameras whose pictures are observations, as `<camera>_image`.
        low_dim: vector observations and their lengths; `object` is the privileged state of the objects.
        action: what an action is; its mode is the controller's.
        object_entries: what `object` holds, by robosuite's names and with lengths, where it is not the order
            that this program has for the environment (:mod:`fibo_robot.envs.simulation.object_state`).
        robots: robosuite's robots.
        image_size: pixels of a square observation picture's side.
        control_freq: actions per second.
        controller: robosuite's composite controller configuration, one for all robots.
        options: further arguments of `robosuite.make` that change the scene, such as `gripper_types`.
        renderer: `auto`, `egl`, `osmesa` or `warp`.
        quality: what the pictures include; recording, training and evaluation must agree on it.
    """

    name: str
    env_name: str
    horizon: int
    cameras: tuple[str, ...]
    low_dim: Mapping[str, int]
    object_entries: Mapping[str, int] = field(default_factory=dict)
    action: ActionSpec = field(default_factory=ActionSpec.deltas)
    robots: tuple[str, ...] = ("Panda",)
    image_size: int = 84
    control_freq: int = 20
    controller: Mapping[str, Any] = field(default_factory=osc_pose_controller)
    options: Mapping[str, Any] = field(default_factory=dict)
    renderer: str = "auto"
    quality: RenderQuality = field(default_factory=RenderQuality)

    def __post_init__(self) -> None:
        mode = controller_mode(self.controller)
        if mode is not None and mode != self.action.mode:
            raise FiboError(
                f"The controller of the task {self.name} takes {mode} actions, its action is "
                f"{self.action.mode}: give both, e.g. action=ActionSpec.poses(arms) for absolute ones."
            )

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Names of the image observations, one per camera."""
        return tuple(f"{camera}_image" for camera in self.cameras)

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """Every observation key: images, then vectors."""
        return (*self.image_keys, *self.low_dim)

    @property
    def policy_keys(self) -> tuple[str, ...]:
        """What a policy sees by default: images and proprioception, not the objects' true state."""
        return tuple(key for key in self.obs_keys if key != "object")

    def resolved(self) -> "Task":
        """The same task with `renderer: auto` replaced by what it means on this machine."""
        renderer = resolve_renderer(self.renderer)
        return replace(self, renderer=renderer, quality=self.quality.resolved(renderer))

    def check_keys(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Return `keys` as a tuple; raises FiboError naming the nearest key for one that the task lacks."""
        for key in keys:
            if key not in self.obs_keys:
                raise FiboError(
                    f"The task {self.name} has no observation {key!r}. {did_you_mean(key, self.obs_keys)}"
                )
        return tuple(keys)

    def shape_meta(
        self,
        obs_keys: Sequence[str] | None = None,
        n_obs_steps: int = 1,
        action_horizon: int = 1,
        n_action_steps: int = 1,
    ) -> ShapeMeta:
        """Shapes and horizons for a policy that sees `obs_keys` (default: :attr:`policy_keys`)."""
        keys = self.check_keys(self.policy_keys if obs_keys is None else obs_keys)
        obs = {key: self.observation_spec(key) for key in keys}
        return ShapeMeta(obs, self.action, n_obs_steps, action_horizon, n_action_steps)

    def observation_spec(self, key: str) -> ObservationSpec:
        """Shape and kind of one observation; raises FiboError for one that the task lacks."""
        self.check_keys([key])
        if key in self.low_dim:
            return ObservationSpec((self.low_dim[key],), "low_dim")
        return ObservationSpec((3, self.image_size, self.image_size), "rgb")

    def make_env(self, obs_keys: Sequence[str] | None = None) -> SimulationEnv:
        """Start the simulator; only the cameras named in `obs_keys` (default: all keys) are rendered."""
        return SimulationEnv(self, obs_keys)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        lists = {"cameras": list(self.cameras), "robots": list(self.robots)}
        return {
            **asdict(self),
            **lists,
            "action": self.action.to_dict(),
            "quality": self.quality.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """Read what :meth:`to_dict` wrote; raises FiboError for a key that a task does not have."""
        # Recordings made before actions had a specification: the controller says what they are.
        values = {key: value for key, value in values.items() if key != "action_dim"}
        names = [entry.name for entry in fields(cls)]
        for key in values:
            if key not in names:
                raise FiboError(f"A task has no setting {key!r}. {did_you_mean(key, names)}")
        quality = values.get("quality", RenderQuality())
        if not isinstance(quality, RenderQuality):
            quality = RenderQuality.from_dict(quality, values.get("renderer"))
        robots = tuple(values.get("robots", ("Panda",)))
        action = values.get("action")
        if action is None:
            action = controller_actions(values.get("controller", {}), len(robots))
        elif not isinstance(action, ActionSpec):
            action = ActionSpec.from_dict(action)
        settings: dict[str, Any] = {**values, "cameras": tuple(values["cameras"]), "quality": quality}
        return cls(**{**settings, "robots": robots, "action": action})

    def robosuite_kwargs(self) -> dict[str, Any]:
        """Arguments of `robosuite.make`, also the `env_kwargs` of a robomimic dataset."""
        return {
            "robots": list(self.robots),
            "controller_configs": [dict(self.controller) for _ in self.robots],
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "use_camera_obs": False,
            "use_object_obs": True,
            "ignore_done": True,
            "reward_shaping": False,
            "control_freq": self.control_freq,
            "hard_reset": False,
            **self.options,
        }

    def env_args(self) -> dict[str, Any]:
        """robomimic's environment metadata, with this task and the simulator's versions beside it."""
        task = self.resolved()
        images = {
            "camera_names": list(task.cameras),
            "camera_heights": task.image_size,
            "camera_widths": task.image_size,
        }
        return {
            "env_name": task.env_name,
            "env_version": installed_version("robosuite", extra="sim", purpose="The simulator"),
            "type": 1,  # robomimic.envs.env_base.EnvType.ROBOSUITE_TYPE
            "env_kwargs": {**task.robosuite_kwargs(), **images},
            "fibo_robot": {
                "task": task.to_dict(),
                "versions": simulator_versions(),
                # So that a reader knows the order of these files' `object`, whatever robosuite's is.
                "object_state": list(object_slices(task.env_name, task.object_entries)),
            },
        }


def simulator_versions() -> dict[str, str]:
    """Versions of the packages that decide what an episode looks like, where they are installed."""
    versions = {"fibo-robot": __version__}
    for name in _VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


# Horizons, cameras and image sizes are those of robomimic's image benchmark. Stack and PickPlace, which it
# lacks, are seen like Lift, Can and Square; PickPlace is four things to put away, each of which may take as
# long as Can.
_TWO_CAMERAS = ("agentview", "robot0_eye_in_hand")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("lift", "Lift", 400, _TWO_CAMERAS, {**ARM_LOW_DIM, "object": 10}),
        Task("can", "PickPlaceCan", 400, _TWO_CAMERAS, {**ARM_LOW_DIM, "object": 14}),
        Task("square", "NutAssemblySquare", 400, _TWO_CAMERAS, {**ARM_LOW_DIM, "object": 14}),
        Task("stack", "Stack", 400, _TWO_CAMERAS, {**ARM_LOW_DIM, "object": 23}),
        Task("pick_place", "PickPlace", 1600, _TWO_CAMERAS, {**ARM_LOW_DIM, "object": 56}),
        Task(
            "tool_hang",
            "ToolHang",
            700,
            ("sideview", "robot0_eye_in_hand"),
            {**ARM_LOW_DIM, "object": 44},
            image_size=240,
        ),
        Task(
            "transport",
            "TwoArmTransport",
            700,
            ("shouldercamera0", "shouldercamera1", "robot0_eye_in_hand", "robot1_eye_in_hand"),
            {**ARM_LOW_DIM, **SECOND_ARM_LOW_DIM, "object": 41},
            action=ActionSpec.deltas(arms=2),
            robots=("Panda", "Panda"),
        ),
    )
}


@overload
def get_task(  # pyright: ignore[reportOverlappingOverload]  (the one name that means another kind)
    name: Literal["pusht"], **overrides: Any
) -> PushTTask: ...
@overload
def get_task(name: str, **overrides: Any) -> Task: ...
def get_task(name: str, **overrides: Any) -> Task | PushTTask:
    """The task called `name`, with some of its settings replaced.

    Raises:
        FiboError: for an unknown task or setting; the message names the nearest.
    """
    if name == PushTTask.KIND:
        return PushTTask.from_dict(overrides)
    if name not in TASKS:
        raise FiboError(f"Unknown task {name!r}. {did_you_mean(name, (*TASKS, PushTTask.KIND))}")
    return Task.from_dict({**{f.name: getattr(TASKS[name], f.name) for f in fields(Task)}, **overrides})


def task_from_dict(values: Mapping[str, Any]) -> Task | PushTTask:
    """Read what a task's `to_dict` wrote, whichever kind it is; raises FiboError for an unknown one."""
    kind = values.get("kind")
    if kind is None:
        return Task.from_dict(values)
    if kind != PushTTask.KIND:
        raise FiboError(f"A task of the kind {kind!r} is not known here; another version wrote it.")
    return PushTTask.from_dict(values)


def register_environments() -> None:
    """Make every task known to gymnasium, as `fibo_robot/Lift-v0` and so on; nothing is imported yet."""
    names = {name: name.title().replace("_", "") for name in TASKS}
    for name, title in {**names, PushTTask.KIND: "PushT"}.items():
        env_id = f"fibo_robot/{title}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="fibo_robot.envs.tasks:make_registered",
                kwargs={"task": name},
            )


def make_registered(
    task: Task | PushTTask | str,
    obs_keys: Sequence[str] | None = None,
    render_mode: Literal["rgb_array"] | None = "rgb_array",
) -> SimulationEnv | PushTEnv:
    """What `gymnasium.make` calls: the environment of a task, or of the task so called.

    Raises:
        FiboError: for an unknown task, observation or render mode.
    """
    if render_mode not in (None, "rgb_array"):
        raise FiboError(f"The tasks draw pictures (render_mode='rgb_array'), they have no {render_mode!r}.")
    task = get_task(task) if isinstance(task, str) else task
    if isinstance(task, PushTTask):
        return PushTEnv(task, obs_keys, render_mode)
    return SimulationEnv(task, obs_keys, render_mode)
