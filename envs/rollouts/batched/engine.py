"""The engine whose worlds advance together on one device.

All worlds look and decide at the same moments: a policy's chunk of `n_action_steps` actions is executed in
every world, then all are observed once, those whose episode is over having begun their next seed just before.
So pictures are drawn once per chunk for all worlds, and a world waits at most a chunk for its next episode.
The policy gets the rows of the worlds that run, in batches of the plan's `batch_size` rows padded with zeros.

An episode whose world becomes invalid says nothing about the policy. When all others are done it is played
again among fewer worlds, which leaves more room for each one's contacts, and if that fails it is an error.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import torch

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rollouts.batched.lockstep import Lockstep
from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv, MakeWorlds
from fibo_robot.envs.rollouts.engine import Finished, Plan
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.workers.engine import one_thread
from fibo_robot.extras import installed_version, require
from fibo_robot.interfaces import Policy, Task

# A second try runs among an eighth of the worlds.
_FEWER = 8


class BatchedEngine:
    """Plays episodes in worlds that share a device: an :class:`fibo_robot.envs.rollouts.engine.Engine`.

    Attributes:
        name: `warp`.
        simulation: the simulator and the kind of its device.
        reproducible: whether the simulator is exact there; MuJoCo Warp is not on a GPU, where the order of
            its sums is left to chance.
    """

    name = "warp"

    def __init__(self, worlds: int, device: torch.device | str, make: MakeWorlds | None = None) -> None:
        """Choose worlds; none is made before :meth:`run`.

        Args:
            worlds: how many at most; there are never more than episodes.
            device: where they are simulated.
            make: builds them; default: :class:`fibo_robot.envs.warp.WarpTask`.

        Raises:
            ValueError: for no worlds.
            RolloutError: CUDA is asked of a torch without it.
        """
        if worlds < 1:
            raise ValueError("worlds must be at least 1")
        self._device = _usable(torch.device(device))
        self._count, self._make = worlds, make or _warp_worlds
        version = "" if make else f" {_installed()}"
        self.simulation = f"mujoco_warp{version} on {self._device.type}"
        self.reproducible = self._device.type == "cpu"
        self._plan: Plan | None = None
        self._account: Session | None = None
        self._begin = 0.0

    def open(self, plan: Plan) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        self._plan, self._account = plan, None

    def run(self, policy: Policy, seeds: Sequence[int], keep: Callable[[Finished], None]) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        with closing(self.play(policy, seeds)) as episodes:  # so that its account is complete, come what may
            for finished in episodes:
                if isinstance(finished, Finished):
                    keep(finished)

    def play(self, policy: Policy, seeds: Sequence[int]) -> Generator[Finished | int, None, None]:
        """:meth:`run`, giving each episode as soon as it is over.

        After every chunk it gives the number of control steps so far: a sign of life, 0 before the first.
        """
        plan = self._plan
        if plan is None:
            raise ValueError("an engine is opened with a plan before it runs")
        count = min(self._count, len(seeds))
        self._begin = time.perf_counter()
        self._account = Session(wall=0.0, env_steps=0, episodes=0, workers=count, engine=self.name)
        failures: dict[int, str] = {}
        try:
            with one_thread():
                yield from self._play(plan, policy, seeds, count, failures, last=False)
                if failures:
                    again = min(len(failures), max(1, count // _FEWER))
                    yield from self._play(plan, policy, list(failures), again, failures, last=True)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise RolloutError(
                f"{count} worlds and the policy do not fit into the memory of {self._device} ({error}). "
                "Take fewer with --worlds, or a smaller --batch-size."
            ) from error
        finally:
            self._add(wall=time.perf_counter() - self._begin)

    def session(self) -> Session | None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        return self._account

    def close(self) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`; worlds are closed with their run."""

    def _play(
        self,
        plan: Plan,
        policy: Policy,
        seeds: Sequence[int],
        count: int,
        failures: dict[int, str],
        last: bool,
    ) -> Iterator[Finished | int]:
        """One pass over `seeds`; what fails goes into `failures`, or is an error in the `last` pass."""
        worlds = self._make(plan.task, count, list(policy.shape_meta.obs), self._device)
        try:
            run = Lockstep(worlds, plan, policy, self._add)
            if self._account is not None and not self._account.start_up:
                self._add(start_up=time.perf_counter() - self._begin)
                renderer = worlds.describe_renderer()
                known = () if renderer is None else (renderer,)
                self._account = replace(self._account, renderers=known)
            for event in run.play(seeds):
                if event is None:
                    yield 0 if self._account is None else self._account.env_steps
                    continue
                finished, fault = event
                seed = finished.episode.seed
                if fault is None:
                    again = (failures[seed],) if seed in failures else ()
                    self._add(episodes=1)
                    yield replace(finished, episode=replace(finished.episode, worker_errors=again))
                elif not last:
                    failures[seed] = fault
                else:
                    self._add(episodes=1)
                    yield Finished(_lost(seed, (failures[seed], fault)))
        finally:
            worlds.close()

    def _add(self, **amounts: float) -> None:
        account = self._account
        assert account is not None, "an account is opened with a run"
        self._account = replace(
            account, **{key: getattr(account, key) + value for key, value in amounts.items()}
        )


def _lost(seed: int, faults: tuple[str, ...]) -> Episode:
    return Episode(
        seed=seed,
        error=f"The simulation failed {len(faults)} times. {faults[-1]}",
        error_source="worker",
        worker_errors=faults,
    )


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch, Warp or CUDA, in their own words, found no room on the device."""
    words = ("failed to allocate", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def _usable(device: torch.device) -> torch.device:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RolloutError(
            "Worlds on cuda were asked for, and this PyTorch finds no GPU. Take --device cpu, which is slow, "
            "or install a PyTorch with CUDA on a machine that has one."
        )
    return device


def _installed() -> str:
    return installed_version("mujoco-warp", extra="warp", purpose="The engine warp")


def _warp_worlds(task: Task, num_worlds: int, obs_keys: Sequence[str], device: torch.device) -> BatchedEnv:
    require("mujoco_warp", extra="warp", purpose="The engine warp")
    from fibo_robot.envs.rollouts.batched.warp import WarpWorlds

    return WarpWorlds(task, num_worlds, obs_keys, device)
