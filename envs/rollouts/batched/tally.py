"""The accounts of episodes that run side by side, kept for all worlds at once and written out when one ends.

They say the same as the account of a single world (:mod:`fibo_robot.envs.rollouts.workers.episode_runner`):
the same end, the same numbers and, for the same actions and rewards, the same digest.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from fibo_robot.envs.rollouts.batched.worlds import Start
from fibo_robot.envs.rollouts.engine import scene_digest
from fibo_robot.envs.rollouts.episodes import Episode


class Tallies:
    """One account per world.

    Args:
        num_worlds: N.
        horizon: control steps after which an episode ends.
        action_dim: A.
        success_hold: consecutive solved steps that end an episode; None: none do.

    Attributes:
        seeds: the episode that each world plays, or None.
        running: bool `(N,)`; worlds whose episode has not come to its end.
        length: control steps of each world's episode.
        invalid: bool `(N,)`; worlds whose simulation failed before their episode's end.
    """

    def __init__(self, num_worlds: int, horizon: int, action_dim: int, success_hold: int | None) -> None:
        self._horizon, self._hold = horizon, success_hold
        self.seeds: list[int | None] = [None] * num_worlds
        self._starts: list[Start | None] = [None] * num_worlds
        self.running = np.zeros(num_worlds, bool)
        self.invalid = np.zeros(num_worlds, bool)
        self.length = np.zeros(num_worlds, np.int64)
        self._held = np.zeros(num_worlds, np.int64)
        self._first_success = np.zeros(num_worlds, np.int64)  # counted from 1; 0: not yet
        # One row of a trace is an action and its reward, as the digest takes them; what the policy and the
        # simulator gave in float32 is kept so.
        self._actions = np.zeros((num_worlds, horizon, action_dim), np.float32)
        self._rewards = np.zeros((num_worlds, horizon), np.float32)

    def begin(self, worlds: Sequence[int], seeds: Sequence[int], starts: Sequence[Start]) -> None:
        """Open the accounts of new episodes."""
        for world, seed, start in zip(worlds, seeds, starts, strict=True):
            self.seeds[world], self._starts[world] = seed, start
        chosen = list(worlds)
        self.running[chosen] = True
        self.invalid[chosen] = False
        self.length[chosen] = self._held[chosen] = self._first_success[chosen] = 0

    def add(
        self, actions: np.ndarray, reward: np.ndarray, success: np.ndarray, invalid: np.ndarray
    ) -> np.ndarray:
        """Count one control step of the running worlds.

        Args:
            actions: executed in each world, `(N, A)`.
            reward, success, invalid: what it led to, `(N,)` each.

        Returns:
            bool `(N,)`: worlds whose episode is over with this step.
        """
        now = self.running & ~invalid
        rows = np.flatnonzero(now)
        self._actions[rows, self.length[rows]] = actions[rows]
        self._rewards[rows, self.length[rows]] = reward[rows]
        self.length[rows] += 1
        self._held = np.where(now, np.where(success, self._held + 1, 0), self._held)
        self._first_success = np.where(
            now & success & (self._first_success == 0), self.length, self._first_success
        )
        over = now & (self.length >= self._horizon)
        if self._hold is not None:
            over |= now & (self._held == self._hold)
        self.invalid |= self.running & invalid
        over |= self.running & invalid
        self.running &= ~over
        return over

    def stop(self, world: int) -> None:
        """End a world's episode as it stands."""
        self.running[world] = False

    def close(self, world: int) -> Episode:
        """The row of the episode that was played in a world, which is free now."""
        seed, start, length = self.seeds[world], self._starts[world], int(self.length[world])
        assert seed is not None and start is not None, "an account that was never opened"
        self.seeds[world] = self._starts[world] = None
        actions, rewards = self._actions[world, :length], self._rewards[world, :length]
        trace = np.concatenate([actions, rewards[:, None]], axis=1).astype(np.float64)
        first = int(self._first_success[world])
        return Episode(
            seed=seed,
            success_once=first > 0,
            success_at_end=bool(self._held[world] > 0),
            sum_reward=float(rewards.astype(np.float64).sum()),
            max_reward=float(rewards.max(initial=0.0)) if length else 0.0,
            length=length,
            first_success=first or None,
            scene=scene_digest(start.scene),
            trace=hashlib.blake2b(trace.tobytes(), digest_size=8).hexdigest(),
            object_positions={
                name: tuple(map(float, position)) for name, position in start.object_positions.items()
            },
        )
