"""The engine whose worlds advance together on one device.

All worlds look and decide at the same moments: a policy's chunk of `n_action_steps` actions is executed in
every world, then all are observed once, those whose episode is over having begun their next seed just before.
So pictures are drawn once per chunk for all worlds, and a world waits at most a chunk for its next episode.
The policy gets the rows of the worlds that run, in batches of the plan's `batch_size` rows padded with zeros.

An episode whose world becomes invalid says nothing about the policy. When all others are done it is played
again among fewer worlds, which leaves more room for each one's contacts, and if that fails it is an error.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rollouts.action_trace import ActionTraceRecorder
from fibo_robot.envs.rollouts.batched.films import Films
from fibo_robot.envs.rollouts.batched.tally import Tallies
from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv, MakeWorlds
from fibo_robot.envs.rollouts.engine import Finished, Plan
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.identity import policy_device
from fibo_robot.envs.rollouts.scheduler import not_finite
from fibo_robot.envs.rollouts.worker_engine import one_thread
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
        for finished in self.play(policy, seeds):
            keep(finished)

    def play(self, policy: Policy, seeds: Sequence[int]) -> Iterator[Finished]:
        """:meth:`run`, giving each episode as soon as it is over."""
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
        except torch.OutOfMemoryError as error:
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
    ) -> Iterator[Finished]:
        """One pass over `seeds`; what fails goes into `failures`, or is an error in the `last` pass."""
        worlds = self._make(plan.task, count, list(policy.shape_meta.obs), self._device)
        try:
            run = _Pass(worlds, plan, policy, self._add)
            if self._account is not None and not self._account.start_up:
                self._add(start_up=time.perf_counter() - self._begin)
                renderer = worlds.describe_renderer()
                known = () if renderer is None else (renderer,)
                self._account = replace(self._account, renderers=known)
            for finished, fault in run.play(seeds):
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


class _Pass:
    """Plays seeds in the worlds of one simulator until each has come to an end, good or bad."""

    def __init__(self, worlds: BatchedEnv, plan: Plan, policy: Policy, account: Callable[..., None]) -> None:
        meta = policy.shape_meta
        self._worlds, self._plan, self._policy, self._account = worlds, plan, policy, account
        self._meta, self._device = meta, policy_device(policy)
        self._tallies = Tallies(worlds.num_worlds, plan.task.horizon, meta.action.dim, plan.success_hold)
        self._films = Films(plan.videos)
        self._actions = ActionTraceRecorder(plan.videos, meta.n_action_steps)
        self._policy_errors: set[int] = set()  # worlds
        self._history: dict[str, Tensor] = {}
        self._padding: list[int] = []

    def play(self, seeds: Sequence[int]) -> Iterator[tuple[Finished, str | None]]:
        """Each episode when it is over, with what made its world invalid or None."""
        pending = deque(seeds)
        # Padding rows are episodes too, to the policy; none of the real ones is called so.
        self._padding = [max(seeds) + 1 + row for row in range(self._plan.batch_size - 1)]
        self._policy.reset(self._padding)
        try:
            self._look(self._fill(range(self._worlds.num_worlds), pending))
            while self._tallies.running.any():
                over = self._advance(self._decide())
                for world in over:
                    yield self._end(world)
                begun = self._fill(over, pending)
                self._worlds.rest([world for world in over if world not in begun])
                if self._tallies.running.any():
                    self._look(begun)
        finally:
            left = [seed for seed in self._tallies.seeds if seed is not None]
            self._policy.forget([*self._padding, *left])

    def _fill(self, free: Sequence[int], pending: deque[int]) -> list[int]:
        """Begin the next episodes in free worlds; returns the worlds that got one."""
        worlds = list(free)[: len(pending)]
        if not worlds:
            return []
        begin = time.perf_counter()
        seeds = [pending.popleft() for _ in worlds]
        self._tallies.begin(worlds, seeds, self._worlds.begin(worlds, seeds))
        self._account(physics=time.perf_counter() - begin)
        self._policy.reset(seeds)
        for seed in seeds:
            self._actions.begin(seed)
        begin = time.perf_counter()
        self._films.begin(self._worlds, dict(zip(worlds, seeds, strict=True)))
        self._account(rendering=time.perf_counter() - begin)
        return worlds

    def _look(self, begun: Sequence[int] = ()) -> None:
        """Observe all worlds; in those whose episode has just begun, the past looks like the present."""
        begin = time.perf_counter()
        steps = self._meta.n_obs_steps
        for key, value in self._worlds.observe().items():
            expected = (self._worlds.num_worlds, *self._meta.obs[key].shape)
            if value.shape != expected:
                raise RolloutError(
                    f"The simulator of the task {self._plan.task.name} gave {key} of shape "
                    f"{tuple(value.shape)} instead of {expected}."
                )
            past = self._history.get(key)
            if past is None:
                self._history[key] = torch.stack([value] * steps, 1)
                continue
            past = torch.cat([past[:, 1:], value[:, None]], 1)
            if begun:
                rows = torch.tensor(begun, device=past.device)
                past[rows] = value[rows, None].expand(-1, steps, *value.shape[1:])
            self._history[key] = past
        self._settle()
        self._account(rendering=time.perf_counter() - begin)

    def _settle(self) -> None:
        """Wait for a GPU, so that its time is counted where it was asked for."""
        if self._worlds.device.type == "cuda":
            torch.cuda.synchronize(self._worlds.device)

    def _decide(self) -> Tensor:
        """Actions `(N, n_action_steps, A)` of all worlds, on their device; zeros where none is running."""
        meta, rows = self._meta, self._plan.batch_size
        chunks = torch.zeros(
            (self._worlds.num_worlds, meta.n_action_steps, meta.action.dim), device=self._worlds.device
        )
        begin = time.perf_counter()
        running = np.flatnonzero(self._tallies.running)
        for at in range(0, len(running), rows):
            worlds = running[at : at + rows].tolist()
            episodes = [seed for world in worlds if (seed := self._tallies.seeds[world]) is not None]
            batch = {}
            chosen = torch.tensor(worlds, device=self._worlds.device)
            for key, past in self._history.items():
                batch[key] = torch.zeros((rows, *past.shape[1:]), dtype=past.dtype, device=self._device)
                batch[key][: len(worlds)] = past[chosen].to(self._device)
            with self._actions.watch(self._policy, episodes) as measures:
                actions = self._policy.act(batch, [*episodes, *self._padding[: rows - len(worlds)]])
            expected = (rows, meta.n_action_steps, meta.action.dim)
            if actions.shape != expected:
                raise RolloutError(
                    f"The policy returned actions of shape {tuple(actions.shape)} instead of {expected}."
                )
            actions = actions[: len(worlds)].to(self._worlds.device, torch.float32)
            finite = actions.isfinite().all((1, 2))
            chunks[chosen] = torch.where(finite[:, None, None], actions, 0.0)
            self._note(worlds, episodes, actions, finite, measures)
        self._account(policy=time.perf_counter() - begin)
        return chunks

    def _note(
        self,
        worlds: Sequence[int],
        episodes: Sequence[int],
        actions: Tensor,
        finite: Tensor,
        measures: dict[str, np.ndarray],
    ) -> None:
        """Stop worlds whose actions are not finite, and keep the actions of filmed episodes."""
        for row, good in enumerate(finite.tolist()):
            if not good:
                self._policy_errors.add(worlds[row])
                self._tallies.stop(worlds[row])
                self._films.stop(worlds[row])
            if episodes[row] in self._plan.videos:
                self._actions.add(episodes[row], actions[row].cpu().numpy(), measures, row)

    def _advance(self, chunks: Tensor) -> list[int]:
        """Execute a chunk in all worlds; returns those whose episode is over."""
        over = np.zeros(self._worlds.num_worlds, bool)
        over[list(self._policy_errors)] = True
        executed = chunks.cpu().numpy()
        steps = chunks.shape[1]
        for index in range(steps):
            running = int(self._tallies.running.sum())
            if not running:
                break
            begin = time.perf_counter()
            step = self._worlds.advance(chunks[:, index])
            outcome = (step.reward.cpu().numpy(), step.success.cpu().numpy(), step.invalid.cpu().numpy())
            self._account(physics=time.perf_counter() - begin, env_steps=running)
            over |= self._tallies.add(executed[:, index], *outcome)
            begin = time.perf_counter()
            self._films.add(self._worlds, self._tallies)
            self._account(rendering=time.perf_counter() - begin)
            if steps - self._meta.n_obs_steps <= index < steps - 1:
                self._look()
        return np.flatnonzero(over).tolist()

    def _end(self, world: int) -> tuple[Finished, str | None]:
        """Close an episode's account."""
        fault = self._worlds.fault(world) if self._tallies.invalid[world] else None
        episode = self._tallies.close(world)
        self._policy.forget([episode.seed])
        actions = self._actions.finish(episode.seed, episode.length)
        if world in self._policy_errors:
            self._policy_errors.discard(world)
            episode = episode.failed_by_policy(not_finite(self._policy))
        video, video_error = self._films.finish(episode.seed)
        return Finished(replace(episode, video_error=video_error), video, actions), fault


def _lost(seed: int, faults: tuple[str, ...]) -> Episode:
    return Episode(
        seed=seed,
        error=f"The simulation failed {len(faults)} times. {faults[-1]}",
        error_source="worker",
        worker_errors=faults,
    )


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
