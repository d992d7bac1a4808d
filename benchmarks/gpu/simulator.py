"""The batched simulator on this device, beside worker processes, where MuJoCo Warp is installed."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fibo_robot.benchmarks.gpu.graphs import first_line
from fibo_robot.interfaces import ShapeMeta

if TYPE_CHECKING:
    from fibo_robot.envs.rollouts.batched.worlds import MakeWorlds
    from fibo_robot.envs.tasks import Task

STEPS = 40  # two seconds of an episode


@dataclass(frozen=True)
class SimulatorCase:
    """So many worlds of a task, observed through its cameras (drawn by Warp) or by its state alone."""

    task: str
    worlds: int
    pictures: bool

    @property
    def name(self) -> str:
        """Unique among the cases."""
        return f"{self.task} x {self.worlds}, {'pictures' if self.pictures else 'state'}"


class RandomPolicy:
    """Actions drawn anew at every step: a policy that costs nothing and touches what it should not."""

    def __init__(self, shape_meta: ShapeMeta, device: str) -> None:
        self.shape_meta, self.device = shape_meta, torch.device(device)
        self._generator = torch.Generator(device).manual_seed(0)
        self._low = torch.tensor(shape_meta.action.low, device=device)
        self._high = torch.tensor(shape_meta.action.high, device=device)

    def reset(self, episodes: Sequence[int]) -> None:
        """Nothing is kept of an episode."""

    def act(self, obs: Mapping[str, Tensor], episodes: Sequence[int]) -> Tensor:
        """One action per row of the observations, uniform within the task's bounds."""
        rows = len(next(iter(obs.values())))
        shape = rows, self.shape_meta.n_action_steps, len(self._low)
        drawn = torch.rand(shape, device=self.device, generator=self._generator)
        return self._low + (self._high - self._low) * drawn

    def forget(self, episodes: Sequence[int]) -> None:
        """Nothing was kept."""


def why_not() -> str | None:
    """What is missing for this part; None where nothing is."""
    missing = [name for name in ("mujoco_warp", "robosuite") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'fibo-robot[warp]'." if missing else None


def measure(
    case: SimulatorCase,
    device: str,
    rounds: int = 2,
    task: "Task | None" = None,
    make: "MakeWorlds | None" = None,
) -> list[dict[str, Any]]:
    """Rows of one case: worker processes, one and as many as there are cores, and the worlds on the device.

    Worlds are drawn by Warp; processes draw as robosuite does, through EGL on the GPU where that is there.

    Args:
        case: what to simulate.
        device: where.
        rounds: timed repetitions.
        task: in place of the one that the case names.
        make: builds other worlds than MuJoCo Warp's.

    Returns:
        Rows as of :class:`fibo_robot.benchmarks.simulation.worlds.WorldsRow`, with their ratios to one
        process and to the fastest number of processes; where those cannot draw, a last row says why.
    """
    from fibo_robot.benchmarks.simulation import worlds
    from fibo_robot.envs.rendering.settings import RendererError

    drawn_by_robosuite, drawn_by_warp = (task, task) if task is not None else _tasks(case)
    policy = RandomPolicy(drawn_by_warp.shape_meta(), device)
    counts = sorted({1, os.cpu_count() or 1})
    rows, left_out = [], {}
    try:
        rows += worlds.measure(policy, drawn_by_robosuite, (), device, counts, STEPS, rounds)
    except RendererError as error:  # a machine without OpenGL's libraries: worlds can be drawn there
        left_out[worlds.PROCESSES] = first_line(error)
    rates = [row.env_steps_per_s for row in rows]
    rows += worlds.measure(policy, drawn_by_warp, (case.worlds,), device, (), STEPS, rounds, make)
    found = []
    for row in rows:
        about = row.to_dict()
        rate, ratios = row.env_steps_per_s, {}
        if rates:
            ratios = {"speedup_vs_one_process": rate / rates[0], "speedup_vs_processes": rate / max(rates)}
        found.append({**asdict(case), "engine": about.pop("case"), **about, **ratios})
    return found + [{**asdict(case), "left_out": left_out}] * bool(left_out)


def _tasks(case: SimulatorCase) -> "tuple[Task, Task]":
    from fibo_robot.envs.tasks import get_task

    if case.pictures:
        return get_task(case.task), get_task(case.task, renderer="warp")
    # Nothing is drawn, so no library for it is needed.
    without = get_task(case.task, cameras=(), renderer="warp")
    return without, without
