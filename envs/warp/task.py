"""Many worlds of one task, stepped together on one device: a gymnasium vector environment with torch tensors.

Worlds restart one by one (`reset(seed=[7], worlds=[3])`) while the others go on, and rest where no episode is
left for them. Nothing resets on its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
from torch import Tensor

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task
    from fibo_robot.envs.warp.export import TaskExport
    from fibo_robot.envs.warp.start_states import StartState, StartStates

# Draws the present scene of every world: `pictures(keys)` gives uint8 tensors (num_worlds, 3, H, W) on the
# device, by observation key.
Pictures = Callable[[Sequence[str]], Mapping[str, Tensor]]


class WarpTask(gymnasium.vector.VectorEnv):
    """`num_worlds` worlds of a task on one device.

    Observations are torch tensors on the device with a leading world axis, keys and shapes as the task's
    (float32 vectors, uint8 pictures). `reset` gives `(obs, info)`, `step` gives `(obs, reward, terminated,
    truncated, info)`: reward float32 `(W,)`, terminated (always False) and truncated (at the task's horizon)
    bool `(W,)`. `info` holds tensors `(W,)` on the device:

        `success`   bool: the task is solved in the present state
        `running`   bool: an episode runs in this world; the others rest, and their rows say nothing
        `valid`     bool: nothing went wrong in the world's present episode; see :attr:`faults`
        `elapsed`   int64: control steps since the episode began

    A world in which the simulation broke down (more contacts or constraints than there is room for, numbers
    that are not finite, the robot's hand or an object out of the workspace) stays invalid until it is reset;
    it rests meanwhile, so that it cannot harm the others.

    Attributes:
        task: what is simulated, resolved.
        export: its compiled model and what must be known of it.
        device: the torch device that everything lies on.
        num_worlds: W.
        obs_keys: the observations that :meth:`reset` and :meth:`step` return.
        starts: the start state of the episode in each world, None where a world rests.
        faults: what went wrong, by world, in present episodes; empty where all are valid.
        pictures: what draws image observations; to be set before image keys are observed.
        mujoco_model: the compiled model on the host (`mujoco.MjModel`).
        model: the model on the device (`mujoco_warp.Model`); sizes that differ per world have a world axis.
        data: the worlds' state (`mujoco_warp.Data`). After reset and step everything that follows from
            positions and velocities is up to date: poses of bodies, geoms, sites, cameras and lights, contacts.
    """

    def __init__(
        self,
        task: "Task | str",
        num_worlds: int,
        device: str = "cuda",
        *,
        obs_keys: Sequence[str] | None = None,
        export: "TaskExport | None" = None,
        start_states: "StartStates | None" = None,
        pictures: Pictures | None = None,
    ) -> None:
        """Put the worlds on the device; all rest until :meth:`reset`.

        Args:
            task: what to simulate, or its name.
            num_worlds: W; memory is estimated before any is taken.
            device: `cuda`, `cuda:1`, or `cpu` (slow: for tests).
            obs_keys: what to observe; default: the task's vectors, and its pictures where `pictures` is given.
            export: the task's compiled model; default: from the cache, or made here with robosuite.
            start_states: where seeds begin; default: from the cache, completed here with robosuite.
            pictures: what draws image observations.

        Raises:
            FiboError: an observation that the task lacks.
            WarpError: the device, the versions of MuJoCo and Warp, the task or the memory do not allow it.
        """
        raise NotImplementedError

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
        worlds: Sequence[int] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Begin episodes; see :meth:`start`.

        Args:
            seed: one per world; a number s means s, s + 1, …; None: the next of the environment's generator.
            options: none are known.
            worlds: where to begin them; the other worlds go on. None: worlds 0, 1, …, and the others rest.
        """
        raise NotImplementedError

    def start(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> None:
        """:meth:`reset` without looking."""
        raise NotImplementedError

    def start_from(self, starts: "Sequence[StartState]", worlds: Sequence[int] | None = None) -> None:
        """Begin episodes in given states, such as a demonstration's first."""
        raise NotImplementedError

    def rest(self, worlds: Sequence[int]) -> None:
        """End these worlds' episodes: they hold still until they are started again."""
        raise NotImplementedError

    def step(self, actions: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """:meth:`advance` by `actions` `(W, A)`, then :meth:`observe`."""
        raise NotImplementedError

    def advance(self, actions: Tensor) -> dict[str, Tensor]:
        """One control step without looking; returns `info`.

        Args:
            actions: `(W, A)`, on the device, in the task's own units; clipped to its bounds. Rows of resting
                worlds are passed over. Whoever runs a policy checks that its actions are finite: here, NaN
                makes the world invalid.
        """
        raise NotImplementedError

    def observe(self, obs_keys: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The present observation of every world; default: :attr:`obs_keys`."""
        raise NotImplementedError

    def info(self) -> dict[str, Tensor]:
        """What :meth:`reset` and :meth:`step` say of the worlds."""
        raise NotImplementedError

    def states(self) -> Tensor:
        """Flat MuJoCo states, float32 `(W, 1 + nq + nv)`: time, positions, velocities."""
        raise NotImplementedError

    def object_positions(self) -> dict[str, Tensor]:
        """World positions `(W, 3)` of the task's objects in metres, by name, the main one first."""
        raise NotImplementedError

    def close(self, **kwargs: Any) -> None:
        """Release the device's memory."""
        raise NotImplementedError
