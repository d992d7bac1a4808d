"""Where each seed's episode begins: computed by the task itself on the host, in float64, and kept in a file.

So an episode begins in the same state in every engine, and has the same scene digest.
"""

import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fibo_robot.envs.rollouts.engine import scene_digest
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.warp.errors import WarpError
from fibo_robot.envs.warp.exporting.export import cache_folder, simulation_settings
from fibo_robot.files import replace_atomically

if TYPE_CHECKING:
    from fibo_robot.envs.tasks import Task

_KEPT_EVERY = 200  # seeds; a reset takes hundredths of a second
_SEEDS, _NOTES, _SCENE, _OBJECT = "seeds", "settings", "scene/", "object/"


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
        """Digest of the scene, the same in every engine."""
        return scene_digest(self.scene)

    @classmethod
    def of(cls, env: SimulationEnv, seed: int | None = None) -> "StartState":
        """The present state of a task's environment."""
        return cls(seed, env.scene(), env.object_positions())


class StartStates:
    """Start states of one task by seed; missing ones are computed with robosuite and kept.

    Attributes:
        path: the file, an npz of arrays with one row per seed.
    """

    def __init__(self, task: "Task", path: Path | None = None) -> None:
        """Open the file (default: `starts.npz` in the task's cache folder), which need not exist.

        Raises:
            WarpError: the file is damaged, or of another task.
        """
        self._task = task
        self.path = path or cache_folder(task) / "starts.npz"
        self._states = self._read()

    def __contains__(self, seed: int) -> bool:
        return seed in self._states

    def __getitem__(self, seed: int) -> StartState:
        """The start state of a seed; computed if it is missing."""
        self.ensure([seed])
        return self._states[seed]

    def ensure(
        self, seeds: Iterable[int], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Compute and keep those of `seeds` that are missing; interrupted, it keeps what is done.

        Args:
            seeds: which.
            progress: called with the seeds done and wanted.

        Raises:
            WarpError: some are missing and there is no robosuite to compute them.
        """
        seeds = list(dict.fromkeys(seeds))
        missing = [seed for seed in seeds if seed not in self._states]
        if not missing:
            return
        if importlib.util.find_spec("robosuite") is None:
            raise WarpError(
                f"{self.path} lacks the start states of {len(missing)} of {len(seeds)} seeds (the first is "
                f"{missing[0]}), and robosuite is not installed here: compute them where it "
                "is, and copy the file."
            )
        env = SimulationEnv(self._task, [], render_mode=None)
        unsaved = 0
        try:
            for done, seed in enumerate(missing, start=len(seeds) - len(missing) + 1):
                env.start(seed)
                self._states[seed] = StartState.of(env, seed)
                unsaved += 1
                if unsaved == _KEPT_EVERY:
                    self._write()
                    unsaved = 0
                progress(done, len(seeds))
        finally:
            env.close()
            if unsaved:
                self._write()

    def _read(self) -> dict[int, StartState]:
        if not self.path.exists():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = dict(file)
            settings = json.loads(str(arrays[_NOTES]))
            seeds = [int(seed) for seed in arrays[_SEEDS]]
            parts = {
                prefix: {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
                for prefix in (_SCENE, _OBJECT)
            }
            states = {
                seed: StartState(
                    seed, *({name: array[row] for name, array in part.items()} for part in parts.values())
                )
                for row, seed in enumerate(seeds)
            }
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise WarpError(
                f"{self.path} cannot be read as start states ({error}): delete it, and they are "
                "computed again."
            ) from error
        if settings != simulation_settings(self._task):
            raise WarpError(f"{self.path} holds start states of another task than {self._task.name}.")
        return states

    def _write(self) -> None:
        # Another process may have added some meanwhile.
        self._states = self._read() | self._states
        states = [self._states[seed] for seed in sorted(self._states)]
        arrays: dict[str, Any] = {
            _SEEDS: np.array([state.seed for state in states]),
            _NOTES: np.array(json.dumps(simulation_settings(self._task))),
        }
        for name in states[0].scene:
            arrays[_SCENE + name] = np.stack([state.scene[name] for state in states])
        for name in states[0].object_positions:
            arrays[_OBJECT + name] = np.stack([state.object_positions[name] for state in states])
        with replace_atomically(self.path) as temporary:
            np.savez_compressed(temporary, **arrays)
