"""What the engine needs of a simulator whose many worlds advance together on one device.

The counterpart of :class:`fibo_robot.interfaces.Env`: what it gives are tensors on its device with a leading
axis of worlds, and nothing is copied to the host but what the engine asks for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fibo_robot.interfaces import Task


@dataclass(frozen=True)
class Start:
    """Where one world's episode begins, as the task computed it on the host.

    Attributes:
        scene: float64 arrays as :meth:`fibo_robot.interfaces.Env.scene` gives them for the same seed.
        object_positions: world positions `(3,)` of the task's objects in metres, the main one first.
    """

    scene: Mapping[str, np.ndarray]
    object_positions: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class BatchedStep:
    """What one control step led to in each of N worlds.

    Attributes:
        reward: float `(N,)`.
        success: bool `(N,)`; whether the task is solved in the state reached.
        invalid: bool `(N,)`; the simulation of this world cannot be trusted since its episode began (its
            contacts overflowed, a number is not finite, it left the workspace).
    """

    reward: Tensor
    success: Tensor
    invalid: Tensor


class BatchedEnv(Protocol):
    """N worlds of one task; all rest until an episode begins in them."""

    @property
    def num_worlds(self) -> int:
        """N."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        ...

    def prepare(self, seeds: Sequence[int]) -> None:
        """Make ready to begin these episodes, all at once before the first."""
        ...

    def begin(self, worlds: Sequence[int], seeds: Sequence[int]) -> list[Start]:
        """Begin the episodes that `seeds` name in these worlds, and leave the others as they are."""
        ...

    def rest(self, worlds: Sequence[int]) -> None:
        """No episode is left for these worlds; they hold still until one begins."""
        ...

    def advance(self, actions: Tensor) -> BatchedStep:
        """Execute one action `(N, A)` in every world; nothing is observed."""
        ...

    def fault(self, world: int) -> str:
        """A sentence that says why this world is invalid."""
        ...

    def observe(self) -> dict[str, Tensor]:
        """The present observation: float32 `(N, D)` vectors, uint8 `(N, 3, H, W)` pictures."""
        ...

    def render(self, camera: str, height: int, width: int, worlds: Sequence[int]) -> Tensor:
        """Pictures for a video, uint8 `(len(worlds), height, width, 3)`."""
        ...

    def describe_renderer(self) -> str | None:
        """What draws the observed pictures, as it calls itself; None where there are none."""
        ...

    def close(self) -> None:
        """Release the worlds."""
        ...


# Builds N worlds of a task that give these observations on a device.
MakeWorlds = Callable[[Task, int, Sequence[str], torch.device], BatchedEnv]
