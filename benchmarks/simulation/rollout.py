"""How fast rollouts are, against robomimic's own serial loop with the same policy, environment and cameras.

The baseline is `robomimic.utils.train_utils.run_rollout` itself, over the same simulated environment with the
same rendering settings, so that only the loop differs: it observes after every step, and waits for each
picture and each decision in turn. The policy executes its chunks of actions in both, and ours then renders
only what the policy looks at. How much of the ratio that makes is told by a second comparison, in which the
policy looks again after every action (`n_action_steps` 1), so that both render every step. Building
environments is left out on both sides; a rate is control steps per second afterwards.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from robomimic.algo import RolloutPolicy
from robomimic.envs.env_base import EnvBase
from robomimic.utils.train_utils import run_rollout

from fibo_robot.benchmarks.harness import interleave, speedup
from fibo_robot.envs.rollouts.api import rollout

if TYPE_CHECKING:
    from fibo_robot.envs.rollouts.episodes import Session
    from fibo_robot.envs.tasks import Task
    from fibo_robot.interfaces import Policy

BASELINE, OURS = "robomimic_serial", "fibo_rollout"


@dataclass(frozen=True)
class RolloutRow:
    """One way of rolling out.

    Attributes:
        case: `robomimic_serial`, or `fibo_rollout`.
        workers: environments side by side.
        n_action_steps: actions that the policy executes before it looks again.
        env_steps_per_s: control steps per second, median over rounds.
        speedup: over the baseline with the same `n_action_steps` in the same round, median; `spread`: its
            quartiles.
        physics, rendering, policy, transport: milliseconds per control step, added up over workers; None for
            the baseline, whose loop is not ours to look into.
    """

    case: str
    workers: int
    n_action_steps: int
    env_steps_per_s: float
    speedup: float
    spread: tuple[float, float]
    physics: float | None = None
    rendering: float | None = None
    policy: float | None = None
    transport: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def measure(
    policy: "Policy",
    task: "Task",
    workers: Sequence[int] = (1, 2, 4),
    episodes: int = 4,
    steps: int = 80,
    rounds: int = 3,
) -> list[RolloutRow]:
    """Measure the baseline and our engine with each number of workers, interleaved.

    Args:
        policy: used by all.
        task: simulated by all; its horizon is replaced by `steps`.
        workers: numbers of workers.
        episodes: per case and round.
        steps: control steps per episode; none ends early.
        rounds: repetitions.
    """
    task = replace(task, horizon=steps)
    policies = {policy.shape_meta.n_action_steps: policy}
    policies.setdefault(1, _OneActionAtATime(policy))
    seconds: dict[tuple[str, int, int], list[float]] = {}
    sessions: dict[tuple[str, int, int], list[Session]] = {}
    cases: dict[str, Callable[[], None]] = {}
    serial = SerialEnv(task, policy)
    for chunk, chunked in policies.items():
        key = (BASELINE, 1, chunk)
        seconds[key], sessions[key] = [], []
        cases[str(key)] = partial(_time_serial, serial, chunked, episodes, steps, seconds[key])
        for count in workers:
            key = (OURS, count, chunk)
            seconds[key], sessions[key] = [], []
            cases[str(key)] = partial(_time_ours, chunked, task, episodes, count, seconds[key], sessions[key])
    try:
        # Each case takes its own time, without its start-up; interleaving shares the machine's moods.
        interleave(cases, rounds, warmup=0)
    finally:
        serial.close()
    return [_row(key, seconds[BASELINE, 1, key[2]], seconds[key], sessions[key]) for key in seconds]


def _row(
    key: tuple[str, int, int], baseline: Sequence[float], ours: Sequence[float], sessions: "Sequence[Session]"
) -> RolloutRow:
    ratio, spread = speedup(baseline, ours)
    steps = sum(session.env_steps for session in sessions)
    split = {
        part: 1000 * sum(getattr(session, part) for session in sessions) / steps
        for part in ("physics", "rendering", "policy", "transport")
        if steps
    }
    return RolloutRow(*key, 1 / float(np.median(ours)), ratio, spread, **split)


def _time_serial(env: "SerialEnv", policy: "Policy", episodes: int, steps: int, seconds: list[float]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    for seed in range(episodes):
        env.seed = seed
        run_rollout(_ChunkedPolicy(policy, seed), env, steps, terminate_on_success=False)
    seconds.append((time.perf_counter() - begin) / (episodes * steps))
    torch.set_num_threads(before)


def _time_ours(
    policy: "Policy",
    task: "Task",
    episodes: int,
    workers: int,
    seconds: list[float],
    sessions: "list[Session]",
) -> None:
    # Only the horizon is not the one that the policy was trained with.
    evaluation = rollout(
        policy,
        task,
        range(episodes),
        workers,
        success_hold=None,
        allow_other_task=True,
        progress=False,
    )
    (session,) = evaluation.sessions
    seconds.append((session.wall - session.start_up) / session.env_steps)
    sessions.append(session)


class _OneActionAtATime:
    """A policy that looks again after the first action of every chunk it predicts."""

    def __init__(self, policy: "Policy") -> None:
        self._policy = policy
        self.shape_meta = replace(policy.shape_meta, n_action_steps=1)

    def reset(self, episodes: Sequence[int]) -> None:
        self._policy.reset(episodes)

    def act(self, obs: Mapping[str, torch.Tensor], episodes: Sequence[int]) -> torch.Tensor:
        return self._policy.act(obs, episodes)[:, :1]

    def forget(self, episodes: Sequence[int]) -> None:
        self._policy.forget(episodes)


class _ChunkedPolicy(RolloutPolicy):
    """Our policy behind robomimic's interface: decides once per chunk, and plays the chunk."""

    def __init__(self, policy: "Policy", seed: int) -> None:
        self._policy, self._seed = policy, seed
        self._chunk: list[np.ndarray] = []
        self._history: list[dict[str, np.ndarray]] = []

    def start_episode(self) -> None:
        self._policy.reset([self._seed])

    def __call__(self, ob: dict[str, np.ndarray], goal: object = None) -> np.ndarray:
        steps = self._policy.shape_meta.n_obs_steps
        self._history = ((self._history or [ob] * steps) + [ob])[-steps:]
        if not self._chunk:
            stacked = {
                key: torch.from_numpy(np.stack([past[key] for past in self._history]))[None] for key in ob
            }
            self._chunk = list(self._policy.act(stacked, [self._seed])[0].cpu().numpy())
        return self._chunk.pop(0)


_RobomimicEnv: Any = EnvBase  # robomimic's types say properties where it calls methods


class SerialEnv(_RobomimicEnv):
    """Our environment behind robomimic's interface; every step is observed, as robomimic's own does."""

    def __init__(self, task: "Task", policy: "Policy") -> None:
        self._env = task.make_env(list(policy.shape_meta.obs))
        self.seed = 0

    def reset(self) -> dict[str, np.ndarray]:
        return self._env.reset(seed=self.seed)[0]

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, dict]:
        observation, reward, _, _, info = self._env.step(action)
        return observation, reward, False, info

    def is_success(self) -> dict[str, bool]:
        return {"task": self._env.success}

    def state(self) -> np.ndarray:
        """The simulator's flat state at present."""
        return self._env.get_state()

    def close(self) -> None:
        self._env.close()

    @property
    def rollout_exceptions(self) -> tuple:
        return ()

    # What run_rollout never calls.
    def _unused(self, *args: object, **kwargs: object) -> Any:
        raise NotImplementedError

    reset_to = render = get_observation = get_state = get_reward = get_goal = set_goal = is_done = _unused
    serialize = create_for_data_processing = action_dimension = name = type = _unused
