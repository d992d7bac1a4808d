"""PushT, the light task: a disc pushes a T onto its mark, in two dimensions; gym-pusht simulates it.

It needs neither a robot nor OpenGL, and an episode takes seconds. Positions are pixels of a field of 512 x
512, x to the right and y down, as in the data sets that are published for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import gymnasium
import numpy as np

from fibo_robot.envs.simulation.actions import clipped_action
from fibo_robot.errors import FiboError, did_you_mean
from fibo_robot.extras import require
from fibo_robot.interfaces import ActionSpec, ObservationSpec, ShapeMeta, StepResult

_FIELD = 512.0
_CAMERA = "top"
# The disc's centre, and eight corners of the T one after another.
_LOW_DIM = {"agent_pos": 2, "environment_state": 16}
_PRIVILEGED = "environment_state"  # where the T is; what a policy that looks has to see for itself


@dataclass(frozen=True)
class PushTTask:
    """PushT as a task: plain data. Episodes are judged as in the original, by the share of the mark covered.

    An action is where the disc shall go. A step's reward is the covered share over 95 %, at most 1; the task
    is solved while more than 95 % are covered.

    Attributes:
        image_size: pixels of the observed picture's side.
        horizon: control steps after which an episode is cut off.
    """

    image_size: int = 96
    horizon: int = 300

    KIND = "pusht"  # what `to_dict` says, so that readers know which kind of task it is

    @property
    def name(self) -> str:
        """`pusht`."""
        return "pusht"

    @property
    def control_freq(self) -> int:
        """Actions per second."""
        return 10

    @property
    def cameras(self) -> tuple[str, ...]:
        """One, from above."""
        return (_CAMERA,)

    @property
    def action(self) -> ActionSpec:
        """The disc's goal."""
        return ActionSpec(2, (0.0, 0.0), (_FIELD, _FIELD), mode="absolute", rotation="none", arms=0)

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """`top_image`, `agent_pos` and `environment_state`, as gym-pusht calls the vectors."""
        return (f"{_CAMERA}_image", *_LOW_DIM)

    def observation_spec(self, key: str) -> ObservationSpec:
        """Shape and kind of one observation; raises FiboError for one that the task lacks."""
        if key in _LOW_DIM:
            return ObservationSpec((_LOW_DIM[key],), "low_dim")
        if key not in self.obs_keys:
            raise FiboError(
                f"The task {self.name} has no observation {key!r}. {did_you_mean(key, self.obs_keys)}"
            )
        return ObservationSpec((3, self.image_size, self.image_size), "rgb")

    def shape_meta(
        self,
        obs_keys: Sequence[str] | None = None,
        n_obs_steps: int = 1,
        action_horizon: int = 1,
        n_action_steps: int = 1,
    ) -> ShapeMeta:
        """Shapes and horizons for a policy that sees `obs_keys` (default: the picture and the disc)."""
        keys = [key for key in self.obs_keys if key != _PRIVILEGED] if obs_keys is None else obs_keys
        obs = {key: self.observation_spec(key) for key in keys}
        return ShapeMeta(obs, self.action, n_obs_steps, action_horizon, n_action_steps)

    def resolved(self) -> "PushTTask":
        """Itself: nothing depends on the machine."""
        return self

    def make_env(self, obs_keys: Sequence[str] | None = None) -> "PushTEnv":
        """Start a world that gives these observations (default: all)."""
        return PushTEnv(self, obs_keys)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return {"kind": self.KIND, "name": self.name, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PushTTask":
        """Read what :meth:`to_dict` wrote; raises FiboError for a setting that PushT does not have."""
        names = [entry.name for entry in fields(cls)]
        settings = {key: value for key, value in values.items() if key not in ("kind", "name")}
        for key in settings:
            if key not in names:
                raise FiboError(f"The task pusht has no setting {key!r}. {did_you_mean(key, names)}")
        return cls(**settings)


class PushTEnv(gymnasium.Env):
    """PushT as a gymnasium environment with the habits of the simulated tasks.

    Episodes never end by themselves: `terminated` stays False, and `truncated` becomes True at the horizon.
    Observations are float32 vectors and uint8 pictures `(3, H, W)`. The same seed gives the same episode in
    any process and after any earlier episodes.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(
        self,
        task: PushTTask,
        obs_keys: Sequence[str] | None = None,
        render_mode: Literal["rgb_array"] | None = "rgb_array",
    ) -> None:
        """Start a world; see :class:`fibo_robot.envs.simulation.environment.SimulationEnv`."""
        module = require("gym_pusht.envs.pusht", extra="pusht", purpose="The task pusht")
        self._world: Any = module.PushTEnv(obs_type="environment_state_agent_pos")
        self.task, self.render_mode = task, render_mode
        self.obs_keys = tuple(task.obs_keys if obs_keys is None else obs_keys)
        self._steps = 0
        low, high = (np.array(bound, np.float32) for bound in (task.action.low, task.action.high))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Dict({key: self._space(key) for key in self.obs_keys})

    def _space(self, key: str) -> gymnasium.spaces.Box:
        spec = self.task.observation_spec(key)
        if spec.kind == "rgb":
            return gymnasium.spaces.Box(0, 255, spec.shape, np.uint8)
        return gymnasium.spaces.Box(-np.inf, np.inf, spec.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the episode that `seed` names; without one, the next of the environment's own generator."""
        super().reset(seed=seed)
        self._world.reset(seed=seed if seed is not None else int(self.np_random.integers(2**31)))
        self._steps = 0
        return self.observe(), {"success": False}

    def advance(self, action: np.ndarray) -> StepResult:
        """Send the disc to `action` `(2,)`, clipped to the field, for one control step; nothing is drawn.

        Raises:
            ShapeError: it has another shape, or an entry that is NaN.
        """
        _, reward, _, _, info = self._world.step(clipped_action(action, self.task.action))
        self._steps += 1
        return StepResult(float(reward), bool(info["is_success"]))

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """:meth:`advance` and :meth:`observe`; `info["success"]` says whether the task is solved."""
        result = self.advance(action)
        truncated = self._steps >= self.task.horizon
        return self.observe(), result.reward, False, truncated, {"success": result.success}

    def observe(self) -> dict[str, np.ndarray]:
        """The present observation: float32 `(D,)` vectors and a uint8 `(3, H, W)` picture."""
        vectors = self._world.get_obs()
        observation = {}
        for key in self.obs_keys:
            if key in _LOW_DIM:
                observation[key] = np.asarray(vectors[key], np.float32)
            else:
                picture = self.render_image(_CAMERA, self.task.image_size, self.task.image_size)
                observation[key] = np.ascontiguousarray(picture.transpose(2, 0, 1))
        return observation

    def render_image(self, camera: str, height: int, width: int) -> np.ndarray:
        """The field from above, uint8 `(height, width, 3)`."""
        return self._world._get_img(self._world._draw(), width=width, height=height)

    def render(self) -> np.ndarray | None:
        """The field at 256 x 256, as gymnasium's `rgb_array` mode."""
        return None if self.render_mode is None else self.render_image(_CAMERA, 256, 256)

    def describe_renderer(self) -> str | None:
        """What draws the observed picture; None where it is not observed."""
        return "pygame" if f"{_CAMERA}_image" in self.obs_keys else None

    def scene(self) -> dict[str, np.ndarray]:
        """The state: positions, angles and velocities of disc and T, float64."""
        agent, block = self._world.agent, self._world.block
        velocities = [*agent.velocity, *block.velocity, block.angular_velocity]
        return {"state": np.array([*agent.position, *block.position, block.angle, *velocities], np.float64)}

    def object_positions(self) -> dict[str, np.ndarray]:
        """None: the field is measured in pixels."""
        return {}

    def close(self) -> None:
        """Nothing is held."""
