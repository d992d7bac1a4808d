"""A task without a simulator: a point in the plane is to reach a target and stay there.

It follows the interface of the real tasks, takes microseconds per step, and can be told to fail.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fibo_robot.errors import FiboError
from fibo_robot.interfaces import ActionSpec, Env, ObservationSpec, ShapeMeta, StepResult, Task

SIZE = 16


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at one step of one seed's episode, the first `times` times it is reached.

    `kind` is `kill`, `hang`, `raise`, or `sleep` (slow, not wrong). Files in `folder` count the strikes.
    """

    seed: int
    kind: str
    folder: str
    step: int = 3
    times: int = 1

    def strike(self) -> None:
        seen = len(list(Path(self.folder).glob(f"{self.seed}_*")))
        if seen >= self.times:
            return
        Path(self.folder, f"{self.seed}_{seen}").touch()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            time.sleep(3600)
        elif self.kind == "raise":
            raise ArithmeticError("the physics exploded")
        else:
            time.sleep(0.4)


@dataclass(frozen=True)
class ToyTask:
    """The task; `broken` cannot be built, `lying` gives pictures of another size than it says."""

    name: str = "toy"
    horizon: int = 36
    control_freq: int = 20
    cameras: tuple[str, ...] = ("top",)
    low_dim: Mapping[str, int] = field(default_factory=lambda: {"position": 2, "object": 3})
    action: ActionSpec = field(
        default_factory=lambda: ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), rotation="none", arms=0)
    )
    faults: tuple[Fault, ...] = ()
    broken: bool = False
    lying: bool = False

    def observation_spec(self, key: str) -> ObservationSpec:
        specs = {"top_image": ObservationSpec((3, SIZE, SIZE), "rgb")} | {
            name: ObservationSpec((size,), "low_dim") for name, size in self.low_dim.items()
        }
        if key not in specs:
            raise FiboError(f"The toy task has no observation {key!r}.")
        return specs[key]

    def shape_meta(self, n_obs_steps: int = 2, action_horizon: int = 4, n_action_steps: int = 3) -> ShapeMeta:
        obs = {key: self.observation_spec(key) for key in ("top_image", "position")}
        return ShapeMeta(obs, self.action, n_obs_steps, action_horizon, n_action_steps)

    def resolved(self) -> "ToyTask":
        return self

    def make_env(self, obs_keys: Sequence[str]) -> "ToyEnv":
        if self.broken:
            raise RuntimeError("no such scene")
        return ToyEnv(self, obs_keys)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "faults": [], "broken": False, "lying": False}


class ToyEnv:
    """The target moves a little by itself, so that an episode depends on every one of its steps."""

    observed = 0

    def __init__(self, task: ToyTask, obs_keys: Sequence[str]) -> None:
        self.task, self.obs_keys = task, obs_keys

    def reset(self, *, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self.seed, self.steps = seed, 0
        self.generator = np.random.default_rng(seed)
        self.position, self.target = self.generator.uniform(-1, 1, (2, 2))
        return self.observe(), {}

    def advance(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        for fault in self.task.faults:
            if (fault.seed, fault.step) == (self.seed, self.steps):
                fault.strike()
        self.position = self.position + 0.05 * np.clip(np.asarray(action, np.float64), -1, 1)
        self.target = np.clip(self.target + self.generator.normal(0, 0.02, 2), -1, 1)
        success = bool(np.linalg.norm(self.position - self.target) < 0.12)
        return StepResult(float(success), success)

    def observe(self) -> dict[str, np.ndarray]:
        self.observed += 1
        size = SIZE // 2 if self.task.lying else SIZE
        every = {
            "top_image": self.render_image("top", size, size).transpose(2, 0, 1),
            "position": self.position.astype(np.float32),
            "object": np.append(self.target, 0.0).astype(np.float32),
        }
        return {key: every[key] for key in self.obs_keys}

    def render_image(self, camera: str, height: int, width: int) -> np.ndarray:
        image = np.zeros((height, width, 3), np.uint8)
        for channel, (x, y) in enumerate((self.position, self.target)):
            row = int(np.clip((y + 1) / 2 * (height - 1), 0, height - 1))
            column = int(np.clip((x + 1) / 2 * (width - 1), 0, width - 1))
            image[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2, channel] = 255
        return image

    def describe_renderer(self) -> str | None:
        return "numpy" if "top_image" in self.obs_keys else None

    def scene(self) -> dict[str, np.ndarray]:
        return {"state": np.concatenate([self.position, self.target])}

    def object_positions(self) -> dict[str, np.ndarray]:
        return {"target": np.append(self.target, 0.0), "point": np.append(self.position, 0.0)}

    def close(self) -> None:
        pass


# Type checkers see here that the toys follow the protocols.
_task: Task = ToyTask()
_env: Env = ToyEnv(ToyTask(), ())
