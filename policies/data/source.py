"""Where demonstrations come from: what training asks of a file or a folder of them, whatever its format.

Vectors and actions are read whole, a demonstration at a time: they are small and stay in memory. Pictures are
read a run of steps at a time, when a batch needs them.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fibo_robot.envs.tasks import Task


class DemonstrationSource(Protocol):
    """Demonstrations of one task. It may be pickled, and used in any process after a fork.

    Whatever is missing, damaged or contradicts itself raises a DatasetError that names the demonstration.
    """

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def demos(self) -> Sequence[str]:
        """Names of all demonstrations, in a fixed order."""
        ...

    @property
    def obs_keys(self) -> Sequence[str]:
        """Observations that the demonstrations have."""
        ...

    def task(self) -> Task:
        """The task that was demonstrated."""
        ...

    def content_hash(self) -> str:
        """SHA-256 of all that it holds, wherever it lies; reads all of it."""
        ...

    def seeds(self, demos: Sequence[str]) -> list[int]:
        """From which seeds of the task's start states they were recorded, ascending; empty: from none."""
        ...

    def mask(self, filter_key: str) -> Sequence[str]:
        """Demonstrations under a filter key, in the order of `demos`."""
        ...

    def check(self, demos: Sequence[str], action_dim: int, action_key: str) -> None:
        """Refuse what would stop or spoil training, as far as the format alone tells."""
        ...

    def length(self, demo: str) -> int:
        """Number of steps of one demonstration."""
        ...

    def actions(self, demo: str, action_key: str) -> np.ndarray:
        """Actions `(T, A)` in the environment's units, not clipped."""
        ...

    def vectors(self, demo: str, key: str) -> np.ndarray:
        """A low-dimensional observation, `(T, D)`."""
        ...

    def picture_shape(self, demo: str, key: str) -> tuple[int, ...]:
        """Shape `(H, W, 3)` of one picture."""
        ...

    def read_pictures(self, demo: str, key: str, first: int, into: np.ndarray) -> None:
        """Fill `into`, uint8 `(N, H, W, 3)`, with the pictures of the steps from `first` on."""
        ...

    def close(self) -> None:
        """Release what it holds open in this process."""
        ...
