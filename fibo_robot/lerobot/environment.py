"""Our simulated tasks as LeRobot's environment `fibo`.

    lerobot-eval --policy.path=RUN/checkpoints/last/pretrained_model \
        --env.discover_packages_path=fibo_robot.lerobot --env.type=fibo --env.task=lift
"""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from lerobot.configs.types import FeatureType, PolicyFeature  # pyright: ignore[reportMissingImports]
from lerobot.envs.configs import EnvConfig  # pyright: ignore[reportMissingImports]

from fibo_robot.envs.demonstrations.lerobot import layout
from fibo_robot.envs.tasks import Task, get_task
from fibo_robot.policies.adapters.lerobot import TYPE, LeRobotError

GYM_ID = "fibo_robot/LeRobot-v0"


class LeRobotTask(gymnasium.Env):
    """A task of ours with observations as LeRobot's environments have them.

    It says what is to be done in `task` and `task_description`, one of which LeRobot gives to policies.
    `pixels` holds a picture per camera, uint8 `(H, W, 3)`; `agent_pos` the robot's vectors one after the
    other; `environment_state` the objects' true state. An episode ends when the task is solved, or at its
    horizon; `info["is_success"]` says which.

    Args:
        task: its name.
        renderer: what draws the pictures; see Task.
        episode_length: steps after which an episode is cut off; None: the task's own horizon.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(
        self,
        task: str,
        renderer: str = "auto",
        episode_length: int | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        known = _robosuite_task(task, renderer=renderer)
        self.render_mode = render_mode
        self.task = self.task_description = layout.describe_task(known.name)
        self._max_episode_steps = episode_length or known.horizon
        self._env, self._task, self._steps = known.make_env(), known, 0
        low, high = (np.array(bound, np.float32) for bound in (known.action.low, known.action.high))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        side = known.image_size
        picture = gymnasium.spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Dict(dict.fromkeys(known.cameras, picture)),
                "agent_pos": _vector(sum(size for key, size in known.low_dim.items() if key != "object")),
                "environment_state": _vector(known.low_dim["object"]),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode that `seed` names, or the next of the generator."""
        super().reset(seed=seed)
        named = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, _ = self._env.reset(seed=named)
        self._steps = 0
        return self._as_lerobot(observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action `(A,)`."""
        result = self._env.advance(action)
        self._steps += 1
        over = self._steps >= self._max_episode_steps
        info = {"is_success": result.success}
        return self._as_lerobot(self._env.observe()), result.reward, result.success, over, info

    def render(self) -> np.ndarray:
        """A picture by the task's first camera."""
        return self._env.render_image(self._task.cameras[0], 256, 256)

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()

    def _as_lerobot(self, observation: dict[str, np.ndarray]) -> dict[str, Any]:
        robot = [observation[key] for key in self._task.low_dim if key != "object"]
        pixels = {
            camera: np.ascontiguousarray(observation[f"{camera}_image"].transpose(1, 2, 0))
            for camera in self._task.cameras
        }
        state = {"agent_pos": np.concatenate(robot), "environment_state": observation["object"]}
        return {"pixels": pixels, **state}


def _robosuite_task(name: str, **settings: str) -> Task:
    task = get_task(name, **settings)
    if not isinstance(task, Task):
        raise LeRobotError(f"{name} is an environment of LeRobot's own: use its --env.type.")
    return task


def _vector(size: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)


@EnvConfig.register_subclass(TYPE)
@dataclass
class FiboEnv(EnvConfig):
    """Settings of the environment `fibo`.

    Attributes:
        task: lift, can, square, stack, tool_hang or transport.
        renderer: what draws the pictures.
        episode_length: steps after which an episode is cut off; None: the task's own horizon.
    """

    task: str | None = "lift"
    fps: int = 20
    renderer: str = "auto"
    episode_length: int | None = None
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = _robosuite_task(self.task or "")
        self.fps = task.control_freq
        side = task.image_size
        robot = sum(size for key, size in task.low_dim.items() if key != "object")
        self.features = {
            layout.ACTION: PolicyFeature(FeatureType.ACTION, (task.action.dim,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (robot,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (task.low_dim["object"],)),
            **{f"pixels/{c}": PolicyFeature(FeatureType.VISUAL, (side, side, 3)) for c in task.cameras},
        }
        self.features_map = {
            layout.ACTION: layout.ACTION,
            "agent_pos": layout.STATE,
            "environment_state": layout.OBJECT,
            **{f"pixels/{camera}": layout.IMAGES + camera for camera in task.cameras},
        }

    @property
    def gym_id(self) -> str:
        """One id for all tasks, which the keyword tells apart."""
        return GYM_ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """What `gymnasium.make` is given."""
        return {"task": self.task, "renderer": self.renderer, "episode_length": self.episode_length}


if GYM_ID not in gymnasium.registry:
    # Without wrappers, which would hide what is to be done from LeRobot.
    gymnasium.register(
        GYM_ID,
        entry_point=f"{__name__}:{LeRobotTask.__name__}",
        order_enforce=False,
        disable_env_checker=True,
    )
