"""One pass of a policy over seeds in worlds that look, decide and advance together."""

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
from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv
from fibo_robot.envs.rollouts.engine import Finished, Plan
from fibo_robot.envs.rollouts.identity import policy_device
from fibo_robot.envs.rollouts.workers.scheduler import not_finite
from fibo_robot.interfaces import Policy

# Start states that are missing take a robosuite reset each, so there is a sign of life after so many.
_PREPARED_AT_ONCE = 256


class Lockstep:
    """Plays seeds in the worlds of one simulator until each has come to an end, good or bad.

    Args:
        worlds: the simulator.
        plan: how episodes are played.
        policy: decides for the running worlds, in batches of the plan's `batch_size` rows.
        account: called with seconds and control steps to add to a :class:`Session`, by field.
    """

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

    def play(self, seeds: Sequence[int]) -> Iterator[tuple[Finished, str | None] | None]:
        """Each episode when it is over, with what made its world invalid or None; and None after each chunk.

        The latter are signs of life: between two episodes' ends there may be minutes.
        """
        pending = deque(seeds)
        # Padding rows are episodes too, to the policy; none of the real ones is called so.
        self._padding = [max(seeds) + 1 + row for row in range(self._plan.batch_size - 1)]
        self._policy.reset(self._padding)
        try:
            for at in range(0, len(seeds), _PREPARED_AT_ONCE):
                self._worlds.prepare(seeds[at : at + _PREPARED_AT_ONCE])
                yield None
            self._look(self._fill(range(self._worlds.num_worlds), pending))
            while self._tallies.running.any():
                over = self._advance(self._decide())
                yield None
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
