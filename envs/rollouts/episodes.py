"""The rows of an evaluation. Apart from the rest, so that a worker starts without torch and scipy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

EVAL_FILE = "eval.json"  # an evaluation of these rows


@dataclass(frozen=True)
class Episode:
    """One seed's episode.

    Attributes:
        seed: decides the scene and the policy's sampling noise.
        success_once: the task was solved at some step (robomimic's and LeRobot's success).
        success_at_end: it was solved at the last step.
        sum_reward: the return, undiscounted.
        max_reward: largest reward of one step.
        length: control steps executed.
        first_success: the step, counted from 1, after which the task was first solved.
        scene: digest of the task's initial state on the host, the same for every engine; equal scenes can be
            compared as pairs.
        trace: digest of every action and reward; equal traces are the same episode bit by bit.
        object_positions: where the task's objects lay at the start, by name, the main one first; metres,
            world frame.
        video: path relative to the evaluation's folder.
        video_error: why a wanted video is missing.
        action_trace: of a filmed episode, path of its actions and decisions
            (:mod:`fibo_robot.envs.rollouts.action_trace`).
        action_trace_error: why it is missing.
        error: why the episode did not run to its end.
        error_source: `worker` (the machinery failed three times; the episode does not count) or `policy`
            (it returned actions that are not finite; the episode counts as a failure).
        worker_errors: what went wrong in tries that were repeated.
    """

    seed: int
    success_once: bool = False
    success_at_end: bool = False
    sum_reward: float = 0.0
    max_reward: float = 0.0
    length: int = 0
    first_success: int | None = None
    scene: str | None = None
    trace: str | None = None
    object_positions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    video: str | None = None
    video_error: str | None = None
    action_trace: str | None = None
    action_trace_error: str | None = None
    error: str | None = None
    error_source: Literal["worker", "policy"] | None = None
    worker_errors: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the episode says something about the policy."""
        return self.error_source != "worker"

    def failed_by_policy(self, error: str) -> "Episode":
        """The same of a policy that broke down: solved before or not, it has not done its task."""
        return replace(
            self,
            error=error,
            error_source="policy",
            success_once=False,
            success_at_end=False,
            first_success=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Episode":
        """Read what :meth:`to_dict` wrote; keys of other readers of the same row are passed over."""
        known = {entry.name for entry in fields(cls)}
        row = {key: value for key, value in values.items() if key in known}
        positions = row.get("object_positions", {})
        row["object_positions"] = {name: tuple(position) for name, position in positions.items()}
        row["worker_errors"] = tuple(row.get("worker_errors", ()))
        return cls(**row)


@dataclass(frozen=True)
class Session:
    """One uninterrupted stretch of rollouts; times in seconds.

    `physics`, `rendering` and `transport` add up over workers, which run side by side; `policy` is the time
    of the one policy. `transport` is how long messages were under way, waiting for a busy reader included.
    `start_up` is the part of `wall` before the first worker was ready. `renderers` are what drew the observed
    pictures, as they call themselves: a driver's GL_RENDERER, say.
    """

    wall: float
    env_steps: int
    episodes: int
    workers: int
    engine: str
    physics: float = 0.0
    rendering: float = 0.0
    policy: float = 0.0
    transport: float = 0.0
    start_up: float = 0.0
    renderers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return {**asdict(self), "renderers": list(self.renderers)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Session":
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**values, "renderers": tuple(values["renderers"])})
