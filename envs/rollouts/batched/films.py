"""Videos of some of the episodes that run side by side."""

from collections.abc import Mapping

import numpy as np

from fibo_robot.envs.rollouts.batched.tally import Tallies
from fibo_robot.envs.rollouts.batched.worlds import BatchedEnv
from fibo_robot.envs.rollouts.videos import VideoSpec, encode_episode


class Films:
    """Collects frames of the episodes that are filmed, at the steps at which a single world is filmed."""

    def __init__(self, specs: Mapping[int, VideoSpec]) -> None:
        """`specs`: how to film which seed; other episodes cost nothing."""
        self._specs = specs
        self._frames: dict[int, list[np.ndarray]] = {}
        self._worlds: dict[int, int] = {}  # world to the seed that is filmed in it

    def begin(self, worlds: BatchedEnv, seeds: Mapping[int, int]) -> None:
        """Take the first frames of the episodes that begin, given as world to seed."""
        new = {world: seed for world, seed in seeds.items() if seed in self._specs}
        self._worlds.update(new)
        self._frames.update((seed, []) for seed in new.values())
        self._shoot(worlds, list(new))

    def add(self, worlds: BatchedEnv, tallies: Tallies) -> None:
        """Take the frames that are due after a control step: every so many steps, and at an episode's end."""
        due, ended = [], []
        for world, seed in self._worlds.items():
            running = bool(tallies.running[world])
            if not running or tallies.length[world] % self._specs[seed].every == 0:
                due.append(world)
            if not running:
                ended.append(world)
        self._shoot(worlds, due)
        for world in ended:
            self.stop(world)

    def stop(self, world: int) -> None:
        """Take no more frames of the episode in a world."""
        self._worlds.pop(world, None)

    def finish(self, seed: int) -> tuple[bytes | None, str | None]:
        """The film of a seed as mp4, or why it could not be made; nothing for a seed that is not filmed."""
        frames = self._frames.pop(seed, None)
        if frames is None:
            return None, None
        return encode_episode(seed, frames, self._specs[seed].fps)

    def _shoot(self, worlds: BatchedEnv, chosen: list[int]) -> None:
        by_spec: dict[VideoSpec, list[int]] = {}
        for world in chosen:
            by_spec.setdefault(self._specs[self._worlds[world]], []).append(world)
        for spec, group in by_spec.items():
            pictures = worlds.render(spec.camera, spec.size, spec.size, group).cpu().numpy()
            for world, picture in zip(group, pictures, strict=True):
                self._frames[self._worlds[world]].append(picture)
