"""What drives workers: keeps them busy, batches the policy's decisions, replaces workers that fail."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rollouts.action_trace import ActionTraceRecorder
from fibo_robot.envs.rollouts.engine import Finished, Plan
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.identity import policy_device
from fibo_robot.envs.rollouts.workers.episode_runner import (
    Act,
    Begin,
    Command,
    Failed,
    Observation,
    Reply,
    Started,
    Stop,
)
from fibo_robot.envs.rollouts.workers.processes import Workers
from fibo_robot.interfaces import Policy

ATTEMPTS = 3


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which a worker counts as hanging.

    Attributes:
        start: to build its environment; the first one compiles (numba, Warp), for up to two minutes.
        command: to reset, or to execute one chunk of actions and look.
    """

    start: float = 600.0
    command: float = 120.0


@dataclass
class _Slot:
    """What the worker in one slot is doing."""

    seed: int | None = None
    deadline: float | None = None
    sent: float = 0.0
    policy_error: str | None = None
    idle: bool = False  # ready, and no episode was left for it


def not_finite(policy: Policy) -> str:
    """What is said of the episode of a policy that gave NaN or infinity."""
    return f"The policy ({type(policy).__name__}) returned actions that are not finite."


class Scheduler:
    """Runs episodes on workers until every seed has an outcome.

    Args:
        policy: decides for batches of the plan's `batch_size` rows, padded with zeros.
        workers: the pool; its slots are started as needed.
        plan: how episodes are played.
        timeouts: when a worker counts as hanging.
        engine: what to call the workers in the account.
        keep: called with every finished episode.
    """

    def __init__(
        self,
        policy: Policy,
        workers: Workers,
        plan: Plan,
        timeouts: Timeouts,
        engine: str,
        keep: Callable[[Finished], None],
    ) -> None:
        self._policy, self._workers, self._plan = policy, workers, plan
        self._timeouts, self._keep = timeouts, keep
        self._device = policy_device(policy)
        self._actions = ActionTraceRecorder(plan.videos, policy.shape_meta.n_action_steps)
        self._slots: list[_Slot] = []
        self._pending: deque[int] = deque()
        self._unfinished: set[int] = set()
        self._begun: set[int] = set()  # episodes that the policy holds something for
        self._ready: dict[int, Observation] = {}
        self._failures: dict[int, list[str]] = {}
        self._failed_starts = 0
        self._padding: list[int] = []
        self._begin = 0.0
        self._account = Session(wall=0.0, env_steps=0, episodes=0, workers=0, engine=engine)

    def run(self, seeds: Sequence[int], workers: int) -> None:
        """Run the episodes of `seeds` on so many workers.

        Raises:
            RolloutError: the environment cannot be built, or the policy's actions have a wrong shape.
        """
        self._pending, self._unfinished = deque(seeds), set(seeds)
        self._slots = [_Slot() for _ in range(workers)]
        self._account = replace(self._account, workers=workers)
        # Padding rows are episodes too, to the policy; none of the real ones is called so.
        self._padding = [max(seeds) + 1 + row for row in range(self._plan.batch_size - 1)]
        self._policy.reset(self._padding)
        self._begin = time.perf_counter()
        try:
            for slot in range(workers):
                self._start(slot)
            while self._unfinished:
                for slot, reply in self._workers.wait(self._patience()):
                    self._receive(slot, reply)
                self._replace_overdue()
                self._decide()
        finally:
            self._add(wall=time.perf_counter() - self._begin)
            self._policy.forget([*self._padding, *sorted(self._begun)])

    def session(self) -> Session:
        """The account of the run, complete or interrupted."""
        return self._account

    def _start(self, slot: int) -> None:
        self._slots[slot] = _Slot(deadline=time.monotonic() + self._timeouts.start)
        self._workers.start(slot)

    def _send(self, slot: int, command: Command) -> None:
        state = self._slots[slot]
        state.sent = time.monotonic()
        state.deadline = state.sent + self._timeouts.command
        self._workers.send(slot, command)

    def _assign(self, slot: int) -> None:
        """Give the worker the next episode, if there is one."""
        state = self._slots[slot]
        state.seed, state.deadline, state.policy_error = None, None, None
        state.idle = not self._pending
        if self._pending:
            state.seed = self._pending.popleft()
            self._policy.reset([state.seed])
            self._begun.add(state.seed)
            self._actions.begin(state.seed)
            self._send(slot, Begin(state.seed, self._plan.videos.get(state.seed)))

    def _patience(self) -> float | None:
        """How long to wait for replies: not at all where a decision is due."""
        if self._ready:
            return 0.0
        deadlines = [state.deadline for state in self._slots if state.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _receive(self, slot: int, reply: Reply) -> None:
        state = self._slots[slot]
        if isinstance(reply, Failed):
            self._fail(slot, reply)
        elif isinstance(reply, Started):
            self._failed_starts = 0
            if not self._account.start_up:
                self._add(start_up=time.perf_counter() - self._begin)
            if reply.renderer is not None:
                known = {*self._account.renderers, reply.renderer}
                self._account = replace(self._account, renderers=tuple(sorted(known)))
            self._assign(slot)
        else:
            turnaround = time.monotonic() - state.sent
            self._add(
                env_steps=reply.steps,
                physics=reply.physics,
                rendering=reply.rendering,
                transport=turnaround - (reply.sent - reply.received),
            )
            state.deadline = None
            if reply.episode is not None:
                self._finish(self._completed(state, reply.episode, reply.video))
                self._assign(slot)
            elif reply.observation is not None:
                self._ready[slot] = reply.observation

    def _completed(self, state: _Slot, episode: Episode, video: bytes | None) -> Finished:
        """The episode with what only this side knows."""
        failures = tuple(self._failures.get(episode.seed, ()))
        episode = replace(episode, worker_errors=failures)
        if state.policy_error:
            episode = episode.failed_by_policy(state.policy_error)
        return Finished(episode, video, self._actions.finish(episode.seed, episode.length))

    def _finish(self, finished: Finished) -> None:
        seed = finished.episode.seed
        self._unfinished.discard(seed)
        self._begun.discard(seed)
        self._policy.forget([seed])
        self._add(episodes=1)
        self._keep(finished)

    def _replace_overdue(self) -> None:
        now = time.monotonic()
        for slot, state in enumerate(self._slots):
            if state.deadline is not None and state.deadline < now:
                limit = self._timeouts.start if state.seed is None else self._timeouts.command
                self._workers.stop(slot)
                self._fail(slot, Failed(f"The worker did not answer for {limit:g} s."))

    def _fail(self, slot: int, failed: Failed) -> None:
        """A worker is gone: try again, up to a point."""
        seed = self._slots[slot].seed
        self._slots[slot] = _Slot()
        self._ready.pop(slot, None)
        if failed.actionable:
            raise RolloutError(failed.message)
        if seed is None:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS:
                if any(state.seed is not None for state in self._slots):
                    return  # the others go on without this one: its machine may be gone
                raise RolloutError(
                    f"The environment could not be built in {ATTEMPTS} attempts. {failed.message}"
                    f"\n{failed.details}"
                )
        else:
            failures = self._failures.setdefault(seed, [])
            failures.append(failed.message)
            if len(failures) < ATTEMPTS:
                self._pending.appendleft(seed)
            else:
                lost = Episode(
                    seed=seed,
                    error=f"The worker failed {ATTEMPTS} times. {failed.message}",
                    error_source="worker",
                    worker_errors=tuple(failures),
                )
                self._finish(Finished(lost))
        # A worker that stands idle takes over at once; a new one has to be built, and on a cluster that
        # lost a machine there may be no room for it.
        for other, state in enumerate(self._slots):
            if state.idle and self._pending:
                self._assign(other)
        if self._pending:
            self._start(slot)

    def _decide(self) -> None:
        """Let the policy decide for up to a batch of the workers that wait, longest first."""
        rows = self._plan.batch_size
        slots = list(self._ready)[:rows]
        if not slots:
            return
        observations = [self._ready.pop(slot) for slot in slots]
        batch = {key: np.zeros((rows, *value.shape), value.dtype) for key, value in observations[0].items()}
        for row, observation in enumerate(observations):
            for key, value in observation.items():
                batch[key][row] = value
        episodes = [seed for slot in slots if (seed := self._slots[slot].seed) is not None]
        padding = self._padding[: rows - len(slots)]
        begin = time.perf_counter()
        tensors = {key: torch.from_numpy(value).to(self._device) for key, value in batch.items()}
        with self._actions.watch(self._policy, episodes) as measures:
            actions = self._policy.act(tensors, [*episodes, *padding]).cpu().numpy()
        self._add(policy=time.perf_counter() - begin)

        meta = self._policy.shape_meta
        expected = (rows, meta.n_action_steps, meta.action.dim)
        if actions.shape != expected:
            raise RolloutError(f"The policy returned actions of shape {actions.shape} instead of {expected}.")
        # Rows beyond the workers that wait are padding.
        for row, (slot, chunk) in enumerate(zip(slots, actions, strict=False)):
            self._actions.add(episodes[row], chunk, measures, row)
            if np.isfinite(chunk).all():
                self._send(slot, Act(chunk))
            else:
                self._slots[slot].policy_error = not_finite(self._policy)
                self._send(slot, Stop())

    def _add(self, **amounts: float) -> None:
        account = self._account
        self._account = replace(
            account, **{key: getattr(account, key) + value for key, value in amounts.items()}
        )
