"""Play demonstrations again and see how many still end in success."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.pool import map_with_environment
from fibo_robot.envs.robomimic_metadata import recording_of
from fibo_robot.envs.tasks import simulator_versions

if TYPE_CHECKING:
    from fibo_robot.envs.simulation.environment import SimulationEnv
    from fibo_robot.envs.tasks import Task

# What the meaning of an action depends on; a replay renders nothing, so pictures may differ.
_SIMULATION = {
    "env_name": "environment",
    "robots": "robot",
    "controller": "controller",
    "control_freq": "control frequency",
}


@dataclass(frozen=True)
class ReplayedDemo:
    """How one demonstration fared.

    Attributes:
        demo: its name.
        success: the task was solved at some step.
        steps: its length.
        state_error: largest difference of any state entry from the recorded ones, metres, radians or their
            rates; 0 when states themselves are shown.
        object_drift: metres that the task's main object was off at most, from where it was recorded; None in
            a task without.
    """

    demo: str
    success: bool
    steps: int
    state_error: float
    object_drift: float | None


@dataclass(frozen=True)
class Replay:
    """How all demonstrations of a file fared.

    Attributes:
        path: the file.
        by: `states` or `actions`.
        task: what was simulated.
        recorded_with: versions of what made the file, by package, as far as it says.
        recorded_by: `scripted expert` for files recorded here; None where the file does not say.
        demos: one entry per demonstration, in order.
    """

    path: Path
    by: Literal["states", "actions"]
    task: "Task"
    recorded_with: Mapping[str, str]
    recorded_by: str | None
    demos: tuple[ReplayedDemo, ...]

    @property
    def successes(self) -> int:
        """How many were solved."""
        return sum(demo.success for demo in self.demos)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary; :mod:`fibo_robot.envs.results.replay_gate` keeps some of them."""
        drifts = [demo.object_drift for demo in self.demos if demo.object_drift is not None]
        return {
            "file": self.path.name,
            "by": self.by,
            "env_name": self.task.env_name,
            "robots": list(self.task.robots),
            "mode": self.task.action.mode,
            "recorded_by": self.recorded_by,
            "recorded_with": dict(self.recorded_with),
            "replayed_with": simulator_versions(),
            "demonstrations": len(self.demos),
            "successes": self.successes,
            "max_state_error": max(demo.state_error for demo in self.demos),
            "median_object_drift": float(np.median(drifts)) if drifts else None,
            "max_object_drift": max(drifts, default=None),
            "failed": [demo.demo for demo in self.demos if not demo.success],
        }


def replay_demonstrations(
    path: Path | str,
    by: Literal["states", "actions"] = "states",
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replay:
    """Replay every demonstration of a robomimic file, raw or with observations.

    Args:
        path: the file.
        by: `states` shows the recorded states one after another and plays the last action; `actions` starts
            from the first state and plays the recorded actions with nothing to correct them.
        workers: processes.
        progress: called with the demonstrations done and wanted.

    Raises:
        DatasetError: if the file cannot be used, or its states do not fit the task.
    """
    if by not in ("states", "actions"):
        raise DatasetError(f"Demonstrations replay by states or by actions, not by {by!r}.")
    replayed: dict[str, ReplayedDemo] = {}
    with DemonstrationFile(path) as file:
        demos = file.demos
        check_replayable(file)
        progress(0, len(demos))
        for entry in map_with_environment(
            partial(_replay, file=file, by=by), demos, file.task(), (), workers
        ):
            replayed[entry.demo] = entry
            progress(len(replayed), len(demos))
        return Replay(
            path=Path(path),
            by=by,
            task=file.task(),
            recorded_with=file.versions,
            recorded_by="scripted expert" if recording_of(file.env_args) is not None else None,
            demos=tuple(replayed[demo] for demo in demos),
        )


def check_replayable(file: DemonstrationFile) -> None:
    """Raise DatasetError if a demonstration has no states or no steps; nothing is simulated."""
    for demo in file.demos:
        file.array(demo, "states")
        if file.length(demo) == 0:
            raise DatasetError(f"{demo} of {file.path} has no steps; remove it from the file.")


def check_same_simulation(path: Path | str, task: "Task") -> None:
    """Refuse demonstrations whose replay would say nothing about `task`; nothing is simulated.

    Raises:
        DatasetError: if the file cannot be used, or was recorded with another environment, robot, controller
            or control frequency.
    """
    with DemonstrationFile(path) as file:
        recorded = file.task()
    differing = [word for name, word in _SIMULATION.items() if getattr(recorded, name) != getattr(task, name)]
    if differing:
        raise DatasetError(
            f"{path} was recorded with another {' and '.join(differing)} ({_in_short(recorded)}) than the "
            f"policy acts with ({_in_short(task)}), so its replay would check nothing. Give demonstrations "
            "of the policy's own task."
        )


def _in_short(task: "Task") -> str:
    return f"{task.env_name}, {' and '.join(task.robots)}, {task.control_freq} Hz"


def _replay(env: "SimulationEnv", demo: str, file: DemonstrationFile, by: str) -> ReplayedDemo:
    states, actions = file.states(demo), file.actions(demo)
    check_states(env, states, f"{demo} of {file.path}")
    env.take_geometry(file.attributes(demo).get("model_file"))
    success, error = False, 0.0
    drift: float | None = None
    if by == "states":
        env.reset_to(states[0])
        for step, state in enumerate(states):
            if step and env.remembers:
                env.advance(actions[step - 1])
            env.show_state(state)
            success |= env.success
        if not env.remembers:
            env.reset_to(states[-1])
        success |= env.advance(actions[-1]).success
    else:
        recorded = [_main_object(env, state) for state in states]
        env.reset_to(states[0])
        for step, action in enumerate(actions):
            error = max(error, float(np.abs(env.get_state() - states[step]).max()))
            now = _main_object(env)
            if now is not None:
                drift = max(drift or 0.0, float(np.linalg.norm(now - recorded[step])))
            success |= env.advance(action).success
    return ReplayedDemo(demo, success, len(actions), error, drift)


def _main_object(env: "SimulationEnv", state: np.ndarray | None = None) -> np.ndarray | None:
    """Where the task's main object is, at present or in a recorded state; None where there is none."""
    if state is not None:
        env.show_state(state)
    return next(iter(env.object_positions().values()), None)


def check_states(env: "SimulationEnv", states: np.ndarray, source: str) -> None:
    """Raise DatasetError if `states` `(T, S)` are not states of the environment's task."""
    if states.shape[1:] != env.get_state().shape:
        raise DatasetError(
            f"The states of {source} have {states.shape[-1]} entries, those of the task {env.task.name} "
            f"{len(env.get_state())}: the file comes from another scene."
        )
