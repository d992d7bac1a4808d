"""The engines whose worlds are workers with one world each: processes of this machine, or Ray actors.

Both run the same worker (:mod:`fibo_robot.envs.rollouts.workers.episode_runner`) under the same scheduler, so
their episodes are equal bit for bit, whatever the number of workers. Three rules make an outcome depend on
seed and policy only:

* an episode begins from its seed alone (worlds keep nothing from the episode before), and the policy's noise
  is that episode's own;
* the policy always sees batches of `batch_size` rows, padded with rows of zeros. How a row's sum is rounded
  depends on the shape of the batch, not on the other rows;
* numerics in this process run on one thread while the policy decides, as the split of a sum among threads
  also rounds it. The workers have the other cores.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from fibo_robot.envs.rollouts.engine import Engine, Finished, Plan
from fibo_robot.envs.rollouts.episodes import Session
from fibo_robot.envs.rollouts.workers.episode_runner import Setup
from fibo_robot.envs.rollouts.workers.processes import LocalWorkers, Workers
from fibo_robot.envs.rollouts.workers.scheduler import Scheduler, Timeouts
from fibo_robot.interfaces import Policy

EngineName = Literal["local", "ray"]


class WorkerEngine:
    """Plays episodes on workers that step one world each: an :class:`fibo_robot.envs.rollouts.engine.Engine`.

    Attributes:
        name: `local` processes, or `ray` actors on the cluster that Ray is connected to.
        simulation: `mujoco`: MuJoCo on the CPU decides outcomes, whoever runs it.
        reproducible: True.
    """

    simulation = "mujoco"
    reproducible = True

    def __init__(
        self, name: EngineName = "local", workers: int = 2, timeouts: Timeouts | None = None
    ) -> None:
        """Choose workers; none is started before :meth:`run`.

        Args:
            name: what they are.
            workers: how many at most; there are never more than episodes.
            timeouts: when one counts as hanging; default: those of :class:`Timeouts`.

        Raises:
            ValueError: for another name, or no workers.
            RolloutError: Ray is not installed.
        """
        if workers < 1:
            raise ValueError("workers must be at least 1")
        self.name = name
        self._make_workers = _maker(name)
        self._count, self._timeouts = workers, timeouts or Timeouts()
        self._plan: Plan | None = None
        self._workers: Workers | None = None
        self._scheduler: Scheduler | None = None

    def open(self, plan: Plan) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        self._plan, self._scheduler = plan, None

    def run(self, policy: Policy, seeds: Sequence[int], keep: Callable[[Finished], None]) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        plan = self._plan
        if plan is None:
            raise ValueError("an engine is opened with a plan before it runs")
        count = min(self._count, len(seeds))
        setup = Setup.of(plan.task, policy.shape_meta, plan.success_hold)
        self._workers = self._make_workers(setup, count)
        self._scheduler = Scheduler(policy, self._workers, plan, self._timeouts, self.name, keep)
        with one_thread():
            self._scheduler.run(seeds, count)

    def session(self) -> Session | None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        return None if self._scheduler is None else self._scheduler.session()

    def close(self) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def make_engine(engine: EngineName | Engine, workers: int, timeouts: Timeouts | None) -> Engine:
    """The engine of that name with so many workers; an engine is given back as it is."""
    return WorkerEngine(engine, workers, timeouts) if isinstance(engine, str) else engine


def _maker(name: str) -> Callable[[Setup, int], Workers]:
    if name == "local":
        return LocalWorkers
    if name == "ray":
        from fibo_robot.envs.rollouts.workers.ray import RayWorkers

        return RayWorkers
    raise ValueError(f"engine must be local or ray, or an Engine, not {name!r}")


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, as the split of a sum among threads also rounds it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
