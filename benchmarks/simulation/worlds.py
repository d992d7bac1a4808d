"""How fast many worlds on one device roll a policy out, against worker processes with one world each.

The same policy, task and number of control steps; no episode ends early, and each world plays one. Building
worlds, compiling kernels and finding start states are left out on both sides: a rate is control steps per
second afterwards, and a first untimed round brings all of that about.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fibo_robot.benchmarks.harness import interleave
from fibo_robot.envs.rollouts.api import rollout
from fibo_robot.envs.rollouts.batched.engine import BatchedEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from fibo_robot.envs.rollouts.batched.worlds import MakeWorlds
    from fibo_robot.envs.rollouts.engine import Engine
    from fibo_robot.envs.rollouts.episodes import Session
    from fibo_robot.envs.rollouts.workers.engine import EngineName
    from fibo_robot.envs.tasks import Task
    from fibo_robot.interfaces import Policy

PROCESSES, WORLDS = "processes", "worlds"


@dataclass(frozen=True)
class WorldsRow:
    """One engine with so many worlds.

    Attributes:
        case: `processes` (one world each), or `worlds` (on one device).
        worlds: side by side.
        device: where they are simulated.
        cameras: pictures per look.
        env_steps_per_s: control steps per second, median over rounds; `spread`: the quartiles.
        physics, rendering, policy: milliseconds per control step and world: simulation with controller and
            success check, observing, deciding. Of processes, which run side by side, they add up.
        memory_mb: device memory that the worlds and the policy take; None on a CPU.
    """

    case: str
    worlds: int
    device: str
    cameras: int
    env_steps_per_s: float
    spread: tuple[float, float]
    physics: float
    rendering: float
    policy: float
    memory_mb: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def measure(
    policy: "Policy",
    task: "Task",
    worlds: Sequence[int],
    device: str,
    workers: Sequence[int] = (1, 2),
    steps: int = 40,
    rounds: int = 3,
    make: "MakeWorlds | None" = None,
) -> list[WorldsRow]:
    """Measure worker processes and worlds on a device, interleaved.

    Args:
        policy: used by all, on its own device.
        task: simulated by all; its horizon is replaced by `steps`.
        worlds: numbers of worlds on the device.
        device: `cpu` or `cuda`.
        workers: numbers of processes to compare with.
        steps: control steps per episode.
        rounds: repetitions.
        make: as of :class:`fibo_robot.envs.rollouts.batched.engine.BatchedEngine`.
    """
    task = replace(task, horizon=steps)
    sessions: dict[tuple[str, int], list[Session]] = {}
    memory: dict[tuple[str, int], list[float | None]] = {}
    cases: dict[str, Callable[[], None]] = {}
    for case, counts in ((PROCESSES, workers), (WORLDS, worlds)):
        for count in counts:
            key = (case, count)
            sessions[key], memory[key] = [], []
            cases[str(key)] = partial(
                _play, policy, task, case, count, device, make, sessions[key], memory[key]
            )
    interleave(cases, rounds, warmup=1)
    cameras = len(policy.shape_meta.keys("rgb"))
    return [_row(*key, device, cameras, sessions[key][1:], memory[key][1:]) for key in sessions]


def _row(
    case: str,
    worlds: int,
    device: str,
    cameras: int,
    sessions: "Sequence[Session]",
    memory: Sequence[float | None],
) -> WorldsRow:
    rates = [session.env_steps / (session.wall - session.start_up) for session in sessions]
    steps = sum(session.env_steps for session in sessions)
    split = {
        part: 1000 * sum(getattr(session, part) for session in sessions) / steps
        for part in ("physics", "rendering", "policy")
    }
    low, high = (float(np.quantile(rates, at)) for at in (0.25, 0.75))
    known = [amount for amount in memory if amount is not None]
    where = device if case == WORLDS else "cpu"
    rate = float(np.median(rates))
    return WorldsRow(
        case, worlds, where, cameras, rate, (low, high), **split, memory_mb=max(known, default=None)
    )


def _play(
    policy: "Policy",
    task: "Task",
    case: str,
    count: int,
    device: str,
    make: "MakeWorlds | None",
    sessions: "list[Session]",
    memory: list[float | None],
) -> None:
    engine: EngineName | Engine = "local"
    if case == WORLDS:
        engine = BatchedEngine(count, device, make)
    watch = _Memory(policy) if case == WORLDS and device.startswith("cuda") else None
    # Only the horizon is not the one that the policy was trained with.
    evaluation = rollout(
        policy if watch is None else watch,
        task,
        range(count),
        count,
        engine=engine,
        batch_size=count,
        success_hold=None,
        allow_other_task=True,
        progress=False,
    )
    memory.append(None if watch is None else watch.most)
    sessions.extend(evaluation.sessions)


class _Memory:
    """A policy that looks at the device's free memory before it decides: Warp's arrays are not PyTorch's."""

    def __init__(self, policy: "Policy") -> None:
        self._policy, self.shape_meta = policy, policy.shape_meta
        self.device = getattr(policy, "device", "cuda")
        self._free = torch.cuda.mem_get_info()[0]
        self.most = 0.0

    def reset(self, episodes: Sequence[int]) -> None:
        self._policy.reset(episodes)

    def act(self, obs: Any, episodes: Sequence[int]) -> torch.Tensor:
        self.most = max(self.most, (self._free - torch.cuda.mem_get_info()[0]) / 2**20)
        return self._policy.act(obs, episodes)

    def forget(self, episodes: Sequence[int]) -> None:
        self._policy.forget(episodes)
