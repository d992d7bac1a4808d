"""What plays episodes: the contract between :func:`fibo_robot.envs.rollout` and an engine.

An engine gets a :class:`Plan`, a policy and seeds, and hands back one finished episode per seed in any order.
How it does so is its own: worker processes and Ray actors step one world each under one scheduler
(:mod:`fibo_robot.envs.rollouts.workers.engine`); a simulator of many worlds on one device is another engine,
not another kind of worker.

**What is promised.** Within one engine whose `reproducible` is True, an episode is equal bit for bit whatever
else runs, in which order, and after any interruption. Between engines nothing is promised unless their
`simulation` is the same: another simulator rounds otherwise, and contacts make that visible. What all engines
do share is where an episode begins: the digest `scene` (:func:`scene_digest`) is of the start state that the
task computes on the host in float64, so episodes of two engines can be compared as pairs.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fibo_robot.envs.rollouts.episodes import Episode, Session
from fibo_robot.envs.rollouts.videos import VideoSpec
from fibo_robot.interfaces import Policy, Task

if TYPE_CHECKING:
    from fibo_robot.envs.rollouts.action_trace import ActionTrace


@dataclass(frozen=True)
class Plan:
    """How episodes are to be played.

    Attributes:
        task: what is simulated, resolved for this machine.
        success_hold: an episode ends once success has held for this many consecutive steps; None: at the
            horizon.
        batch_size: rows in every batch that the policy sees.
        videos: how to film which seed; the actions of these are kept, too.
    """

    task: Task
    success_hold: int | None = None
    batch_size: int = 1
    videos: Mapping[int, VideoSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """An episode that is over, with what was kept of it.

    Attributes:
        episode: its row, without what depends on the disk.
        video: its mp4, if it was filmed.
        actions: what the policy did, if that was to be kept.
    """

    episode: Episode
    video: bytes | None = None
    actions: "ActionTrace | None" = None


class Engine(Protocol):
    """Plays one episode per seed."""

    @property
    def name(self) -> str:
        """What to call it in results."""
        ...

    @property
    def simulation(self) -> str:
        """What decides an outcome beside policy and plan: where it is the same, episodes are."""
        ...

    @property
    def reproducible(self) -> bool:
        """Whether an episode is equal bit for bit when it is played again."""
        ...

    def open(self, plan: Plan) -> None:
        """Take a plan; the engine may be opened again after :meth:`close`."""
        ...

    def run(self, policy: Policy, seeds: Sequence[int], keep: Callable[[Finished], None]) -> None:
        """Play the episodes of `seeds`, which are distinct, and call `keep` with each as soon as it is over.

        The policy gets observations on its own device, is told of every episode when it begins and when it is
        over (`reset`, `forget`), and its actions are taken to wherever the simulation runs.

        Raises:
            RolloutError: it cannot go on. What `keep` was called with stays finished.
        """
        ...

    def session(self) -> Session | None:
        """The account of the last :meth:`run`, complete or interrupted; None before the first."""
        ...

    def close(self) -> None:
        """Release what it holds, also after an error."""
        ...


def scene_digest(scene: Mapping[str, np.ndarray]) -> str:
    """Digest of an episode's start: of every named float64 array of `Env.scene`, in the order of names.

    Engines on other devices must hash what the task computed on the host, not what came back in float32.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(scene):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(scene[name], np.float64).tobytes())
    return digest.hexdigest()
