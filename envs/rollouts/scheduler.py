"""The engine behind :func:`fibo_robot.envs.rollout`: keeps workers busy, batches decisions, survives."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fibo_robot.envs.rollouts.action_trace import TIMELINE_FOLDER, TimelineRecorder, timeline_name
from fibo_robot.envs.rollouts.episode_runner import (
    Act,
    Begin,
    Command,
    Failed,
    Observation,
    Progress,
    Reply,
    Started,
    Stop,
)
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.processes import Workers
from fibo_robot.envs.rollouts.videos import VIDEO_FOLDER, VideoSpec, VideoWriteError, video_name, write_video
from fibo_robot.errors import FiboError
from fibo_robot.interfaces import Policy

ATTEMPTS = 3


class RolloutError(FiboError):
    """A rollout cannot go on; finished episodes are kept."""


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


class Scheduler:
    """Runs episodes on workers until every seed has an outcome.

    Args:
        policy: decides for batches of `batch_size` rows.
        workers: the pool; its slots are started as needed.
        batch_size: rows in every batch, padded with zeros.
        timeouts: when a worker counts as hanging.
        films: how to film which seed; their actions are kept too.
        output: folder that gets `videos/` and `timelines/`; needed where `films` is not empty.
        keep: called with every finished episode.
    """

    def __init__(
        self,
        policy: Policy,
        workers: Workers,
        batch_size: int,
        timeouts: Timeouts,
        films: Mapping[int, VideoSpec],
        output: Path | None,
        keep: Callable[[Episode], None],
    ) -> None:
        self._policy, self._workers, self._batch_size = policy, workers, batch_size
        self._timeouts, self._films, self._output, self._keep = timeouts, films, output, keep
        self._timelines = TimelineRecorder(films, policy.shape_meta.n_action_steps)
        self._slots: list[_Slot] = []
        self._pending: deque[int] = deque()
        self._unfinished: set[int] = set()
        self._ready: dict[int, Observation] = {}
        self._failures: dict[int, list[str]] = {}
        self._failed_starts = 0
        self._padding: list[int] = []
        self._begin = 0.0
        self._account = Session(wall=0.0, env_steps=0, episodes=0, workers=0, engine=workers.engine)

    def run(self, seeds: Sequence[int], workers: int) -> None:
        """Run the episodes of `seeds` on so many workers.

        Raises:
            RolloutError: the environment cannot be built, or the policy's actions have a wrong shape.
        """
        self._pending, self._unfinished = deque(seeds), set(seeds)
        self._slots = [_Slot() for _ in range(workers)]
        self._account = replace(self._account, workers=workers)
        # Padding rows are episodes too, to the policy; none of the real ones is called so.
        self._padding = [max(seeds) + 1 + row for row in range(self._batch_size - 1)]
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
            self._timelines.begin(state.seed)
            self._send(slot, Begin(state.seed, self._films.get(state.seed)))

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
            if reply.episode is None:
                self._ready[slot] = reply.observation
            else:
                self._finish(self._completed(state, reply))
                self._assign(slot)

    def _completed(self, state: _Slot, reply: Progress) -> Episode:
        """The episode with what only this side knows, its video and timeline on disk."""
        episode = reply.episode
        failures = tuple(self._failures.get(episode.seed, ()))
        episode = replace(episode, worker_errors=failures)
        if state.policy_error:
            # Solved before or not: a policy that breaks down has not done its task.
            episode = replace(
                episode,
                error=state.policy_error,
                error_source="policy",
                success_once=False,
                success_at_end=False,
                first_success=None,
            )
        return self._with_timeline(self._with_video(episode, reply))

    def _with_video(self, episode: Episode, reply: Progress) -> Episode:
        if reply.video is not None:
            name = video_name(episode.seed, episode.success_once, episode.error is not None)
            try:
                write_video(self._output / VIDEO_FOLDER / name, reply.video)
            except VideoWriteError as error:
                return replace(episode, video_error=str(error))
            episode = replace(episode, video=f"{VIDEO_FOLDER}/{name}")
        return episode

    def _with_timeline(self, episode: Episode) -> Episode:
        timeline = self._timelines.finish(episode.seed, episode.length)
        if timeline is None:
            return episode
        name = timeline_name(episode.seed)
        try:
            timeline.save(self._output / TIMELINE_FOLDER / name)
        except OSError as error:
            reason = error.strerror or error
            return replace(episode, timeline_error=f"The timeline {name} could not be written: {reason}.")
        return replace(episode, timeline=f"{TIMELINE_FOLDER}/{name}")

    def _finish(self, episode: Episode) -> None:
        self._unfinished.discard(episode.seed)
        self._add(episodes=1)
        self._keep(episode)

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
                self._finish(
                    Episode(
                        seed=seed,
                        error=f"The worker failed {ATTEMPTS} times. {failed.message}",
                        error_source="worker",
                        worker_errors=tuple(failures),
                    )
                )
        # A worker that stands idle takes over at once; a new one has to be built, and on a cluster that
        # lost a machine there may be no room for it.
        for other, state in enumerate(self._slots):
            if state.idle and self._pending:
                self._assign(other)
        if self._pending:
            self._start(slot)

    def _decide(self) -> None:
        """Let the policy decide for up to a batch of the workers that wait, longest first."""
        slots = list(self._ready)[: self._batch_size]
        if not slots:
            return
        observations = [self._ready.pop(slot) for slot in slots]
        batch = {
            key: np.zeros((self._batch_size, *value.shape), value.dtype)
            for key, value in observations[0].items()
        }
        for row, observation in enumerate(observations):
            for key, value in observation.items():
                batch[key][row] = value
        episodes = [self._slots[slot].seed for slot in slots]
        padding = self._padding[: self._batch_size - len(slots)]
        begin = time.perf_counter()
        tensors = {key: torch.from_numpy(value) for key, value in batch.items()}
        with self._timelines.watch(self._policy, episodes) as measures:
            actions = self._policy.act(tensors, [*episodes, *padding]).cpu().numpy()
        self._add(policy=time.perf_counter() - begin)

        meta = self._policy.shape_meta
        expected = (self._batch_size, meta.n_action_steps, meta.action.dim)
        if actions.shape != expected:
            raise RolloutError(f"The policy returned actions of shape {actions.shape} instead of {expected}.")
        for row, (slot, chunk) in enumerate(zip(slots, actions)):
            self._timelines.add(episodes[row], chunk, measures, row)
            if np.isfinite(chunk).all():
                self._send(slot, Act(chunk))
            else:
                name = type(self._policy).__name__
                self._slots[slot].policy_error = f"The policy ({name}) returned actions that are not finite."
                self._send(slot, Stop())

    def _add(self, **amounts: float) -> None:
        account = self._account
        self._account = replace(
            account, **{key: getattr(account, key) + value for key, value in amounts.items()}
        )
