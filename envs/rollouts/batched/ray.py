"""Many worlds on each of several devices: a Ray actor per device, with its own policy and batched engine.

Seeds are dealt out among the actors. What an actor that is lost, or gives no sign of life for too long, has
not finished is dealt out again among new ones, up to three times; what it has finished is kept.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.rollouts.batched.engine import BatchedEngine
from fibo_robot.envs.rollouts.batched.worlds import MakeWorlds
from fibo_robot.envs.rollouts.engine import Finished, Plan
from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.workers.scheduler import ATTEMPTS, Timeouts
from fibo_robot.errors import FiboError
from fibo_robot.extras import require
from fibo_robot.interfaces import Policy

ray: Any = require("ray", extra="ray", purpose="The engine ray")


class RayBatchedEngine:
    """Plays episodes on the devices of a Ray cluster: an :class:`fibo_robot.envs.rollouts.engine.Engine`.

    Attributes:
        name: `ray`.
        simulation, reproducible: those of the batched engine that every actor runs.
    """

    name = "ray"

    def __init__(
        self,
        worlds: int,
        device: str,
        actors: int | None = None,
        make: MakeWorlds | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Choose devices; :meth:`run` connects to the cluster at `RAY_ADDRESS`, or starts one here.

        Args:
            worlds: per device, at most.
            device: `cuda` or `cpu`.
            actors: how many; default: one per GPU of the cluster, or one on CPUs.
            make: as of :class:`fibo_robot.envs.rollouts.batched.engine.BatchedEngine`.
            timeouts: when an actor counts as hanging: `start` until its first chunk of control steps is over,
                or a part of what it prepares; `command` for every further chunk. Default: :class:`Timeouts`.

        Raises:
            ValueError: for no worlds or actors.
        """
        if actors is not None and actors < 1:
            raise ValueError("actors must be at least 1")
        # The driver needs no GPU: what the actors will run is only described here.
        engine = BatchedEngine(worlds, "cpu", make)
        self._kind = torch.device(device).type
        self.simulation = engine.simulation.replace("on cpu", f"on {self._kind}")
        self.reproducible = self._kind == "cpu"
        self._worlds, self._make, self._wanted = worlds, make, actors
        self._timeouts = timeouts or Timeouts()
        self._owns_cluster = False
        self._plan: Plan | None = None
        self._sessions: list[Session] = []
        self._actors: list[Any] = []

    def open(self, plan: Plan) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        self._plan, self._sessions = plan, []

    def run(self, policy: Policy, seeds: Sequence[int], keep: Callable[[Finished], None]) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        if self._plan is None:
            raise ValueError("an engine is opened with a plan before it runs")
        devices = self._connect()
        sent = ray.put(copy.deepcopy(policy).cpu() if isinstance(policy, nn.Module) else policy)
        left, losses = list(seeds), []
        while left:
            count = min(devices, len(left))
            shares = [left[index::count] for index in range(count)]
            done: set[int] = set()
            failure = None
            for finished in self._play(sent, shares):
                if isinstance(finished, str):
                    failure = finished
                    continue
                episode = finished.episode
                done.add(episode.seed)
                keep(
                    replace(
                        finished, episode=replace(episode, worker_errors=(*losses, *episode.worker_errors))
                    )
                )
            left = [seed for seed in left if seed not in done]
            if left and failure is None:
                raise RolloutError(f"The actors ended without an outcome for {len(left)} episodes.")
            losses += [] if failure is None else [failure]
            if left and len(losses) >= ATTEMPTS:
                for seed in left:
                    message = f"The actors failed {ATTEMPTS} times. {losses[-1]}"
                    keep(Finished(_lost(seed, message, tuple(losses))))
                return

    def _connect(self) -> int:
        """Find the cluster; returns how many actors to start on it."""
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
            self._owns_cluster = True
        resource = "GPU" if self._kind == "cuda" else "CPU"
        there = int(ray.cluster_resources().get(resource, 0))
        count = self._wanted or (max(1, there) if resource == "GPU" else 1)
        if there < count:
            raise RolloutError(
                f"{count} actors need {count} {resource}s, the Ray cluster has {there}. Use fewer --workers, "
                "or another --device."
            )
        return count

    def _play(self, policy: Any, shares: Sequence[Sequence[int]]) -> Iterator[Finished | str]:
        """Finished episodes as they come, and a sentence for an actor that is lost."""
        options = {"num_gpus": 1} if self._kind == "cuda" else {}
        actor = _ACTOR.options(num_cpus=1, scheduling_strategy="SPREAD", **options)
        self._actors = [actor.remote(self._plan, self._worlds, self._kind, self._make) for _ in shares]
        streams = {
            actor.play.options(num_returns="streaming").remote(policy, list(share)): actor
            for actor, share in zip(self._actors, shares, strict=True)
        }
        limits = dict.fromkeys(streams, self._timeouts.start)
        deadlines = {stream: time.monotonic() + limit for stream, limit in limits.items()}
        while streams:
            left = min(deadlines[stream] for stream in streams) - time.monotonic()
            ready, _ = ray.wait(list(streams), num_returns=1, timeout=max(0.0, left))
            for stream in ready:
                try:
                    result = ray.get(next(stream))
                except StopIteration:
                    del streams[stream]
                    continue
                except ray.exceptions.RayTaskError as error:  # the actor is well: its work raised
                    reason = str(error.cause or error).splitlines()[-1]
                    raise RolloutError(f"Rolling out failed in a Ray actor: {reason}") from error
                except ray.exceptions.RayError as error:
                    del streams[stream]
                    reason = str(error).splitlines()[0]
                    yield f"A Ray actor was lost ({type(error).__name__}): {reason}"
                    continue
                if isinstance(result, int):
                    limits[stream] = self._timeouts.command if result else self._timeouts.start
                elif isinstance(result, Finished):
                    yield result
                elif isinstance(result, Session):
                    self._sessions.append(result)
                else:
                    raise RolloutError(result)
                deadlines[stream] = time.monotonic() + limits[stream]
            now = time.monotonic()
            for stream in [stream for stream in streams if deadlines[stream] < now and stream not in ready]:
                ray.kill(streams.pop(stream))
                yield f"A Ray actor did not answer for {limits[stream]:g} s."
        self._stop()

    def session(self) -> Session | None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`: sums over the actors that came to an end."""
        if not self._sessions:
            return None
        added = ("env_steps", "episodes", "workers", "physics", "rendering", "policy")
        return Session(
            wall=max(session.wall for session in self._sessions),
            engine=self.name,
            start_up=max(session.start_up for session in self._sessions),
            renderers=tuple(sorted({name for session in self._sessions for name in session.renderers})),
            **{name: sum(getattr(session, name) for session in self._sessions) for name in added},
        )

    def close(self) -> None:
        """See :class:`fibo_robot.envs.rollouts.engine.Engine`."""
        self._stop()
        if self._owns_cluster:
            ray.shutdown()
            self._owns_cluster = False

    def _stop(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _lost(seed: int, message: str, losses: tuple[str, ...]) -> Episode:
    return Episode(seed, error=message, error_source="worker", worker_errors=losses)


class _Actor:
    """One device with its worlds and its copy of the policy."""

    def __init__(self, plan: Plan, worlds: int, device: str, make: MakeWorlds | None) -> None:
        self._arguments = (worlds, device, make)
        self._plan, self._device = plan, device

    def play(self, policy: Policy, seeds: list[int]) -> Iterator[Finished | int | Session | str]:
        """Episodes as they end and signs of life, then the account; or what no new actor would mend."""
        try:
            engine = BatchedEngine(*self._arguments)
            engine.open(self._plan)
            if isinstance(policy, nn.Module):
                policy = policy.to(self._device)
            yield from engine.play(policy, seeds)
            session = engine.session()
            assert session is not None, "an engine that has run has an account"
            yield session
        except FiboError as error:
            yield str(error)


_ACTOR: Any = ray.remote(max_restarts=0)(_Actor)  # Ray's types do not say what this gives
