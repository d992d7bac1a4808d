"""Where each seed's episode begins: computed by the task itself on the host, in float64, and kept in a file.

So an episode begins in the same state in every engine, and has the same scene digest.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task


@dataclass(frozen=True)
class StartState:
    """How one episode begins.

    Attributes:
        seed: of the episode; None for a state that no seed leads to, such as a recorded one.
        scene: as `SimulationEnv.scene`: `state` `(1 + nq + nv,)`, and sizes; float64.
        object_positions: world positions `(3,)` of the task's objects by name, the main one first; float64.
    """

    seed: int | None
    scene: Mapping[str, np.ndarray]
    object_positions: Mapping[str, np.ndarray]

    @property
    def digest(self) -> str:
        """:func:`fibo_robot.envs.rollouts.engine.scene_digest` of the scene."""
        raise NotImplementedError


class StartStates:
    """Start states of one task by seed; missing ones are computed with robosuite and kept."""

    def __init__(self, task: "Task", path: Path | None = None) -> None:
        """Open the file (default: `starts.npz` in the task's cache folder), which need not exist.

        Raises:
            WarpError: the file is damaged, or of another task.
        """
        raise NotImplementedError

    def ensure(
        self, seeds: Iterable[int], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Compute and keep those of `seeds` that are missing; interrupted, it keeps what is done.

        Raises:
            WarpError: some are missing and there is no robosuite; the message says how many, and where to
                compute them.
        """
        raise NotImplementedError

    def __getitem__(self, seed: int) -> StartState:
        """The start state of a seed; computed if it is missing."""
        raise NotImplementedError
