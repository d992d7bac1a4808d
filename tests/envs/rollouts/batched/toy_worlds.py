"""The toy task in many worlds at once: the same single worlds, driven as a batch."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv, BatchedStep, MakeWorlds, Start
from fibo_robot.interfaces import Task
from tests.envs.toy_task import ToyEnv, ToyTask


class ToyWorlds:
    """N toy worlds in a row.

    `faults` says of a seed how many times it becomes invalid, at its third step; `log` collects events.
    """

    device = torch.device("cpu")

    def __init__(
        self, task: ToyTask, num_worlds: int, obs_keys: Sequence[str], faults: dict[int, int], log: list[str]
    ) -> None:
        self.num_worlds, self._faults, self._log = num_worlds, faults, log
        self._worlds = [task.make_env(obs_keys) for _ in range(num_worlds)]
        self._invalid = np.zeros(num_worlds, bool)
        for world in self._worlds:
            world.reset(seed=0)
        log.append(f"made {num_worlds}")

    def prepare(self, seeds: Sequence[int]) -> None:
        self._log.append(f"prepared {len(seeds)}")

    def begin(self, worlds: Sequence[int], seeds: Sequence[int]) -> list[Start]:
        for world, seed in zip(worlds, seeds, strict=True):
            self._worlds[world].reset(seed=seed)
            self._invalid[world] = False
            self._log.append(f"{seed} in {world}")
        return [Start(self._worlds[w].scene(), self._worlds[w].object_positions()) for w in worlds]

    def rest(self, worlds: Sequence[int]) -> None:
        self._log.extend(f"rest {world}" for world in worlds)

    def advance(self, actions: Tensor) -> BatchedStep:
        results = [world.advance(action) for world, action in zip(self._worlds, actions.numpy(), strict=True)]
        for index, world in enumerate(self._worlds):
            if world.steps == 3 and self._faults.get(world.seed, 0):
                self._faults[world.seed] -= 1
                self._invalid[index] = True
        return BatchedStep(
            torch.tensor([result.reward for result in results]),
            torch.tensor([result.success for result in results]),
            torch.from_numpy(self._invalid.copy()),
        )

    def fault(self, world: int) -> str:
        assert self._invalid[world]
        return f"World {world} had too many contacts."

    def observe(self) -> dict[str, Tensor]:
        self._log.append("look")
        seen = [world.observe() for world in self._worlds]
        return {key: torch.from_numpy(np.stack([one[key] for one in seen])) for key in seen[0]}

    def render(self, camera: str, height: int, width: int, worlds: Sequence[int]) -> Tensor:
        pictures = [self._worlds[world].render_image(camera, height, width) for world in worlds]
        return torch.from_numpy(np.stack(pictures))

    def describe_renderer(self) -> str | None:
        return self._worlds[0].describe_renderer()

    def close(self) -> None:
        self._log.append("closed")


def maker(faults: Mapping[int, int] | None = None, log: list[str] | None = None) -> MakeWorlds:
    """What builds toy worlds with these faults."""
    left, events = dict(faults or {}), [] if log is None else log

    def make(task: Task, num_worlds: int, obs_keys: Sequence[str], device: torch.device) -> BatchedEnv:
        assert isinstance(task, ToyTask) and device.type == "cpu"
        return ToyWorlds(task, num_worlds, obs_keys, left, events)

    return make


_made: type[BatchedEnv] = ToyWorlds  # type checkers see that it follows the protocol
_env: type[ToyEnv] = ToyEnv
