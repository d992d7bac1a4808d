"""Many worlds of one task, stepped together on one device: a gymnasium vector environment with torch tensors.

Worlds restart one by one (`reset(seed=[7], worlds=[3])`) while the others go on, and rest where no episode is
left for them. Nothing resets on its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from fibo_robot.envs.simulation.object_state import SCENE_OBJECTS
from fibo_robot.envs.tasks import Task, get_task
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import TaskExport, cache_folder
from fibo_robot.envs.warp.exporting.start_states import StartState, StartStates
from fibo_robot.envs.warp.physics.capacity import Capacity
from fibo_robot.envs.warp.prepare import prepare
from fibo_robot.envs.warp.rules.observation import check_keys, observe, single_spaces
from fibo_robot.envs.warp.rules.success import Judgement, judge
from fibo_robot.envs.warp.runtime import Compilation

if TYPE_CHECKING:
    from fibo_robot.envs.warp.guard import Fault

# Draws the present scene of every world: uint8 tensors (W, 3, H, W) on the device, by observation key.
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
    that are not finite, the hand or an object out of the workspace) is put back to its start and rests there,
    so that it cannot harm the others; it stays invalid until its next episode begins.

    Attributes:
        task: what is simulated.
        export: its compiled model and what must be known of it.
        device: the torch device that everything lies on.
        num_worlds: W; gymnasium calls it `num_envs`.
        obs_keys: the observations that :meth:`reset` and :meth:`step` return.
        starts: the start state of the episode in each world, None where a world rests.
        faults: what went wrong, by world, in present episodes; empty where all are valid.
        pictures: what draws image observations; to be set before any are observed.
        dumps: folder for the states of worlds that broke down.
        mujoco_model: the compiled model on the host (`mujoco.MjModel`).
        model: the model on the device (`mujoco_warp.Model`); sizes that differ per world have a world axis.
        data: the worlds' state (`mujoco_warp.Data`). After reset and step everything that follows from
            positions and velocities is up to date: poses of bodies, geoms, sites, cameras, lights; contacts.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  (gymnasium's own declaration)

    def __init__(
        self,
        task: Task | str,
        num_worlds: int,
        device: str | torch.device = "cuda",
        *,
        obs_keys: Sequence[str] | None = None,
        export: TaskExport | None = None,
        start_states: StartStates | None = None,
        capacity: Capacity | None = None,
    ) -> None:
        """Put the worlds on the device; all rest until :meth:`reset`.

        Args:
            task: what to simulate, or its name.
            num_worlds: W; memory is estimated before any is taken.
            device: `cuda`, `cuda:1`, or `cpu` (slow: for tests).
            obs_keys: what to observe; default: the task's vectors.
            export: the task's compiled model; default: from the cache, or made here with robosuite.
            start_states: where seeds begin; default: from the cache, completed here with robosuite.
            capacity: room for contacts and constraints; default: measured for the task, with a margin.

        Raises:
            FiboError: an observation that the task lacks.
            WarpError: the device, the versions of MuJoCo and Warp, the task or the memory do not allow it.
        """
        self.task = get_task(task) if isinstance(task, str) else task
        self.obs_keys = self.task.check_keys(tuple(self.task.low_dim) if obs_keys is None else obs_keys)
        prepared = prepare(self.task, num_worlds, device, self.obs_keys, export, capacity)
        self.device, self.export = prepared.device, prepared.export
        check_keys(self.task, self.export, self.obs_keys)
        # Only now, with versions and device checked, the modules that import Warp.
        from fibo_robot.envs.warp import guard
        from fibo_robot.envs.warp.physics.worlds import Physics

        self._guard = guard
        self._compilation = Compilation(self.device)
        with self._compilation.of("model"):
            self._physics = Physics(self.export, num_worlds, self.device, prepared.capacity)
        self.mujoco_model, self.model = self._physics.mujoco_model, self._physics.model
        self.data = self._physics.data
        self._start_states = start_states or StartStates(self.task)
        self.pictures: Pictures | None = None
        self.dumps = cache_folder(self.task) / "faults"
        self.starts: list[StartState | None] = [None] * num_worlds
        self.faults: dict[int, Fault] = {}
        # Where each world rests: its last start, or that of the first episode begun.
        self._parked: list[StartState | None] = [None] * num_worlds
        self._running = torch.zeros(num_worlds, dtype=torch.bool, device=self.device)
        self._valid = torch.ones_like(self._running)
        self._elapsed = torch.zeros(num_worlds, dtype=torch.int64, device=self.device)
        self._judgement: Judgement | None = None
        spec = self.task.action
        self._low = torch.tensor(spec.low, dtype=torch.float64, device=self.device)
        self._high = torch.tensor(spec.high, dtype=torch.float64, device=self.device)
        self.num_envs = num_worlds
        self.single_observation_space, self.single_action_space = single_spaces(self.task, self.obs_keys)
        self.observation_space = batch_space(self.single_observation_space, num_worlds)
        self.action_space = batch_space(self.single_action_space, num_worlds)

    @property
    def num_worlds(self) -> int:
        """How many worlds there are."""
        return self.num_envs

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
        if options:
            raise WarpError(f"Batched worlds have no reset options; {', '.join(options)} given.")
        count = self.num_worlds if worlds is None else len(worlds)
        if seed is None:
            seeds: Sequence[int] = self.np_random.integers(2**31, size=count).tolist()
        else:
            seeds = range(seed, seed + count) if isinstance(seed, int) else seed
        self.start(seeds, worlds)
        return self.observe(), self.info()

    def start(self, seeds: Sequence[int], worlds: Sequence[int] | None = None) -> None:
        """Begin the episodes of `seeds` in `worlds`; the others go on. None: the first worlds; others rest.

        Raises:
            WarpError: more seeds than worlds, a world that is not there, or start states that are missing.
        """
        self._start_states.ensure(seeds)
        self.start_from([self._start_states[seed] for seed in seeds], worlds)

    def start_from(self, starts: Sequence[StartState], worlds: Sequence[int] | None = None) -> None:
        """Begin episodes in given states, such as a demonstration's first; otherwise as :meth:`start`."""
        ended: Sequence[int] = ()
        if worlds is None:
            worlds, ended = range(len(starts)), range(len(starts), self.num_worlds)
            self._end(ended)
        if len(worlds) != len(starts) or len(set(worlds)) != len(worlds):
            raise WarpError(f"{len(starts)} episodes need as many distinct worlds, not {list(worlds)}.")
        self._check_worlds(worlds)
        if not starts:
            return
        begun = dict(zip(worlds, starts, strict=True))
        # A world that has no scene yet rests in another's: in the model's own, objects intersect.
        bare = [world for world, parked in enumerate(self._parked) if parked is None]
        self._parked = [begun.get(world, parked or starts[0]) for world, parked in enumerate(self._parked)]
        for world, start in begun.items():
            self.starts[world] = start
            self.faults.pop(world, None)
        index = torch.tensor(list(worlds), device=self.device)
        self._running[index], self._valid[index], self._elapsed[index] = True, True, 0
        with self._compilation.of("start" if len(worlds) == self.num_worlds else "restart"):
            self._put_back(list(dict.fromkeys([*worlds, *ended, *bare])))

    def rest(self, worlds: Sequence[int]) -> None:
        """End these worlds' episodes: back in their start states, they hold still until started again."""
        self._check_worlds(worlds)
        self._end(worlds)
        self._put_back(worlds)

    def _end(self, worlds: Sequence[int]) -> None:
        for world in worlds:
            self.starts[world] = None
            self.faults.pop(world, None)
        index = torch.tensor(list(worlds), dtype=torch.long, device=self.device)
        self._running[index], self._valid[index], self._elapsed[index] = False, True, 0

    def _put_back(self, worlds: Sequence[int]) -> None:
        """Put worlds into the scenes that their episodes begin with, or in which they rest."""
        parked = {world: self._parked[world] for world in worlds}
        scenes = {world: start.scene for world, start in parked.items() if start is not None}
        if scenes:
            self._physics.begin(list(scenes), list(scenes.values()))
            self._judge()

    def _check_worlds(self, worlds: Sequence[int]) -> None:
        if wrong := [world for world in worlds if not 0 <= world < self.num_worlds]:
            raise WarpError(f"There is no world {wrong[0]}: there are {self.num_worlds}, counted from 0.")

    def step(self, actions: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """:meth:`advance` by `actions` `(W, A)`, then :meth:`observe`."""
        info = self.advance(actions)
        truncated = info["running"] & (info["elapsed"] >= self.task.horizon)
        terminated = torch.zeros_like(truncated)
        return self.observe(), info["success"].float(), terminated, truncated, info

    def advance(self, actions: Tensor) -> dict[str, Tensor]:
        """One control step without looking; returns `info`.

        Args:
            actions: `(W, A)`, in the task's own units; clipped to its bounds. Rows of resting worlds are
                passed over. Whoever runs a policy checks that its actions are finite: here, others make
                their world invalid.

        Raises:
            WarpError: they have another shape.
        """
        physics = self._physics
        if tuple(actions.shape) != tuple(physics.actions.shape):
            raise WarpError(
                f"Actions of {self.num_worlds} worlds have shape {tuple(physics.actions.shape)}, "
                f"not {tuple(actions.shape)}."
            )
        acting = self._running & self._valid
        actions = actions.to(self.device, torch.float64).clamp(self._low, self._high)
        physics.actions.copy_(torch.where(acting[:, None], actions, 0.0))
        physics.resting.copy_(~acting)
        before = physics.states()
        with self._compilation.of("step"):
            physics.step()
        self._elapsed += acting
        codes = self._guard.find_faults(physics)
        self._judge()
        if bool(codes.any()):  # the one wait for the device in a control step
            self._set_aside(codes.tolist(), acting.tolist(), before)
        return self.info()

    def _set_aside(self, codes: list[int], acting: list[bool], before: Tensor) -> None:
        """Name and dump what broke down, and put it back to where it can rest."""
        broken = [world for world, code in enumerate(codes) if code]
        for world in (world for world in broken if acting[world]):
            start = self.starts[world]
            assert start is not None
            self.faults[world] = self._guard.record_fault(
                self._physics, codes[world], world, start.seed, int(self._elapsed[world]), before, self.dumps
            )
            self._valid[world] = False
        self._put_back(broken)

    def _judge(self) -> None:
        settings = self.export.settings
        self._judgement = judge(settings["env_name"], self.export.success, self._physics.scene)

    def observe(self, obs_keys: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The present observation of every world; default: :attr:`obs_keys`.

        Raises:
            WarpError: pictures are asked for, and nothing draws them.
        """
        keys = self.obs_keys if obs_keys is None else self.task.check_keys(obs_keys)
        assert self._judgement is not None, "reset first"
        vectors = [key for key in keys if key in self.task.low_dim]
        values = observe(self.export, self._physics.scene, self._judgement.flags, vectors)
        if images := [key for key in keys if key not in self.task.low_dim]:
            if self.pictures is None:
                raise WarpError(f"Nothing draws {', '.join(images)} here: set `pictures` first.")
            with self._compilation.of("pictures"):
                values |= self.pictures(images)
        return {key: values[key] for key in keys}

    def info(self) -> dict[str, Tensor]:
        """What :meth:`reset` and :meth:`step` say of the worlds."""
        assert self._judgement is not None, "reset first"
        return {
            "success": self._judgement.success & self._running & self._valid,
            "running": self._running.clone(),
            "valid": self._valid.clone(),
            "elapsed": self._elapsed.clone(),
        }

    def states(self) -> Tensor:
        """Flat MuJoCo states, float32 `(W, 1 + nq + nv)`: time, positions, velocities."""
        return self._physics.states()

    def object_positions(self) -> dict[str, Tensor]:
        """World positions `(W, 3)` of the task's objects in metres, by name, the main one first."""
        objects = SCENE_OBJECTS[self.task.env_name]
        return {of.name: self._physics.scene.position(*of.element).clone() for of in objects}

    def hand_positions(self) -> Tensor:
        """World positions `(W, arms, 3)` of the grippers, metres."""
        return self._physics.scene.site_pos[:, [arm.eef_site for arm in self.export.arms]]

    def usage(self) -> Capacity:
        """What the last control step took at most: contacts per world, constraints of one world."""
        return self._physics.usage()

    def close_extras(self, **kwargs: Any) -> None:
        """Release the device's memory; gymnasium's :meth:`close` calls it."""
        del self._physics, self.model, self.data
        self.pictures = None
