"""What datasets, environments and policies agree on, and the only thing they know about each other.

A task publishes a :class:`ShapeMeta`; a dataset reads the observation keys it names; a policy is built
from it; the rollout engines drive anything that follows the protocols :class:`Policy`, :class:`Task` and
:class:`Env`. Workers import this too, so nothing heavy is imported for it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fibo_robot.errors import FiboError

if TYPE_CHECKING:  # torch is slow to import, and a task needs none of it
    import numpy as np
    from torch import Tensor

# Which observations a training sample holds beside the actions of t ... t+H-1: those that a policy sees when
# it decides at t, or, for policies that carry a state from step to step, one for each action.
Window = Literal["past", "sequence"]

# Bounds of absolute poses. They keep out what is no pose; they do not shape behaviour. Positions: no robot at
# a table reaches 10 m, and infinity is neither JSON nor a bound that can be sampled in. Rotations: every
# orientation has an axis-angle vector of at most pi; those up to 2 pi let a sequence go on without a jump.
_POSITION_BOUND = 10.0
_ROTATION_BOUND = 2 * math.pi


class ShapeError(FiboError, ValueError):
    """Shapes, bounds or horizons that contradict each other, or that an earlier version wrote."""


@dataclass(frozen=True)
class ObservationSpec:
    """One observation key.

    Attributes:
        shape: without batch or time; `(3, H, W)` for `rgb`, `(D,)` for `low_dim`.
        kind: `rgb` (uint8 images) or `low_dim` (float32 vectors).
    """

    shape: tuple[int, ...]
    kind: Literal["rgb", "low_dim"]


@dataclass(frozen=True)
class ActionSpec:
    """What one action is, in the environment's own units.

    Attributes:
        dim: A, its length; per arm three of position, three of rotation (axis-angle), one of the gripper, or
            whatever a task without arms takes.
        low, high: bounds of every entry, length A; actions are clipped to them.
        mode: `delta` counts from the present pose, `absolute` names a pose in the world (metres, radians).
        rotation: how the environment reads a rotation; a policy may represent it otherwise inside
            (:mod:`fibo_robot.policies`), but takes and returns this one.
        arms: how many arms share the action, one after the other; 0 where there are none.
    """

    dim: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mode: Literal["delta", "absolute"] = "delta"
    rotation: Literal["axis_angle", "none"] = "axis_angle"
    arms: int = 1

    def __post_init__(self) -> None:
        if not len(self.low) == len(self.high) == self.dim:
            raise ShapeError(f"An action of {self.dim} entries needs as many bounds, low and high.")
        if not all(map(math.isfinite, (*self.low, *self.high))):
            raise ShapeError(
                "Bounds of an action must be finite: they travel as JSON, and actions are clipped."
            )
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ShapeError("Every low bound of an action must lie below its high one.")

    @classmethod
    def deltas(cls, arms: int = 1) -> "ActionSpec":
        """Operational-space deltas of so many arms with grippers, seven entries each, all in [-1, 1]."""
        return cls(7 * arms, (-1.0,) * (7 * arms), (1.0,) * (7 * arms), arms=arms)

    @classmethod
    def poses(cls, arms: int = 1) -> "ActionSpec":
        """Absolute poses of so many arms: metres in the world, axis-angle in radians, grippers in [-1, 1].

        Positions lie within 10 m and axis-angle entries within 2 pi, which every pose does.
        """
        high = ((_POSITION_BOUND,) * 3 + (_ROTATION_BOUND,) * 3 + (1.0,)) * arms
        return cls(7 * arms, tuple(-bound for bound in high), high, mode="absolute", arms=arms)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return {**asdict(self), "low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ActionSpec":
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**values, "low": tuple(values["low"]), "high": tuple(values["high"])})


@dataclass(frozen=True)
class ShapeMeta:
    """Shapes and horizons of one task as one policy sees it.

    Attributes:
        obs: observation keys, named as robomimic names them.
        action: what one action is.
        n_obs_steps: how many of the latest observations the policy sees.
        action_horizon: how many future actions it predicts at once.
        n_action_steps: how many of those are executed before it looks again.
    """

    obs: Mapping[str, ObservationSpec]
    action: ActionSpec
    n_obs_steps: int = 1
    action_horizon: int = 1
    n_action_steps: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n_action_steps <= self.action_horizon:
            raise ShapeError(
                f"n_action_steps ({self.n_action_steps}) must lie between 1 and action_horizon "
                f"({self.action_horizon}): a policy cannot execute actions that it does not predict."
            )
        if self.n_obs_steps < 1:
            raise ShapeError(f"n_obs_steps must be at least 1, not {self.n_obs_steps}.")

    def keys(self, kind: Literal["rgb", "low_dim"]) -> list[str]:
        """Observation keys of one kind, in their given order."""
        return [key for key, spec in self.obs.items() if spec.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return {
            "obs": {key: {"shape": list(spec.shape), "kind": spec.kind} for key, spec in self.obs.items()},
            "action": self.action.to_dict(),
            "n_obs_steps": self.n_obs_steps,
            "action_horizon": self.action_horizon,
            "n_action_steps": self.n_action_steps,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ShapeMeta":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ShapeError: something is missing or not known.
        """
        try:
            obs = {
                key: ObservationSpec(tuple(spec["shape"]), spec["kind"])
                for key, spec in values["obs"].items()
            }
            return cls(**{**values, "obs": obs, "action": ActionSpec.from_dict(values["action"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ShapeError(
                f"These shapes of observations and actions cannot be read ({error}): another version of "
                "fibo_robot wrote them. Train the policy again."
            ) from error


class Policy(Protocol):
    """What the rollout engine needs of a policy."""

    shape_meta: ShapeMeta

    def reset(self, episodes: Sequence[int]) -> None:
        """Begin these episodes (named by their seeds); per-episode state starts here."""
        ...

    def act(self, obs: "Mapping[str, Tensor]", episodes: Sequence[int]) -> "Tensor":
        """Actions `(B, n_action_steps, A)` for observations `(B, n_obs_steps, ...)`, on the same device.

        Row i belongs to `episodes[i]`; rows may be any subset of the running episodes in any order, and
        an action depends on its own row, its episode and that episode's earlier calls only. rgb is
        uint8, low_dim float32. Actions are in the environment's own units.
        """
        ...

    def forget(self, episodes: Sequence[int]) -> None:
        """Free what these episodes held: they are over."""


@dataclass(frozen=True)
class StepResult:
    """What one control step led to.

    Attributes:
        reward: 1.0 while the task is solved, else 0.0, where the task has no reward of its own.
        success: whether the task is solved in the state reached.
    """

    reward: float
    success: bool


class Env(Protocol):
    """One running world, as a rollout's worker drives it. What it gives lies on the host."""

    def reset(self, *, seed: int) -> "tuple[dict[str, np.ndarray], dict[str, Any]]":
        """Begin the episode that `seed` names, whatever was played before; its observation, and remarks."""
        ...

    def advance(self, action: "np.ndarray") -> StepResult:
        """Execute one action `(A,)`; nothing is observed."""
        ...

    def observe(self) -> "dict[str, np.ndarray]":
        """The present observation: float32 `(D,)` vectors, uint8 `(3, H, W)` pictures."""
        ...

    def render_image(self, camera: str, height: int, width: int) -> "np.ndarray":
        """A picture for a video, uint8 `(height, width, 3)`."""
        ...

    def describe_renderer(self) -> str | None:
        """What draws the observed pictures, as it calls itself; None where there are none."""
        ...

    def scene(self) -> "Mapping[str, np.ndarray]":
        """Everything in which present scenes of this task can differ, as float64 on the host.

        At an episode's start it must be the same in every simulator of the task, on whichever device: its
        digest tells which episodes of two evaluations are pairs.
        """
        ...

    def object_positions(self) -> "dict[str, np.ndarray]":
        """World positions `(3,)` of the task's objects in metres, by name, the main one first."""
        ...

    def close(self) -> None:
        """Release the world."""
        ...


class Task(Protocol):
    """What is simulated; plain data, so that it travels to workers."""

    @property
    def name(self) -> str:
        """Short and unique."""
        ...

    @property
    def horizon(self) -> int:
        """Control steps after which an episode is cut off."""
        ...

    @property
    def control_freq(self) -> int:
        """Actions per second."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that can be looked through; the first one films."""
        ...

    @property
    def action(self) -> ActionSpec:
        """What an action is."""
        ...

    def observation_spec(self, key: str) -> ObservationSpec:
        """Shape and kind of one observation; raises FiboError for one that the task lacks."""
        ...

    def resolved(self) -> "Task":
        """The same with everything settled that depends on the machine."""
        ...

    def make_env(self, obs_keys: Sequence[str]) -> Env:
        """Start a world that gives these observations."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The task as JSON-ready data."""
        ...
