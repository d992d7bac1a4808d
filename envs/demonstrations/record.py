"""Record a scripted expert's demonstrations: in parallel, resumable, the same for any number of workers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fibo_robot.envs.demonstrations.experts import get_expert
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.pool import map_with_environment
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, split_masks, write_part
from fibo_robot.envs.tasks import Task

if TYPE_CHECKING:
    from fibo_robot.envs.simulation.environment import SimulationEnv

# A demonstration goes on for a moment after success, so that a policy learns to hold what it has reached.
_STEPS_AFTER_SUCCESS = 5
# Experts need 30 to 170 steps; one that needs this many is stuck.
_STEP_LIMIT = 250
# What the arm does where it misses its grasp: fingers shut, and up by 2.5 cm a step.
_CLOSE_AND_RISE = np.array([0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Recording:
    """What a recorded file depends on, besides the task.

    Attributes:
        episodes: demonstrations in the file, all successful.
        seed: of the first episode; the others follow it, and failed ones are left out.
        noise: standard deviation of the Gaussian noise on the executed motion (an action's range is 1).
        missed_grasps: share of the episodes in which the gripper once closes on nothing and rises, so that
            the demonstrations show what to do then. Noise alone hardly ever leads there, but a policy does.
    """

    episodes: int
    seed: int = 0
    noise: float = 0.1
    missed_grasps: float = 0.0

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.seed < 0 or self.noise < 0:
            raise DatasetError("A recording needs at least one episode, and a seed and noise of at least 0.")
        if not 0 <= self.missed_grasps <= 1:
            raise DatasetError(f"missed_grasps is a share in 0 to 1, not {self.missed_grasps}.")


@dataclass(frozen=True)
class RecordedFile:
    """What :func:`record_demonstrations` made.

    Attributes:
        path: the HDF5 file.
        episodes: demonstrations in it.
        steps: control steps in it.
        tries: episodes that were played for them; those in which the expert failed are left out.
    """

    path: Path
    episodes: int
    steps: int
    tries: int


def record_demonstrations(
    task: Task,
    output: Path | str,
    recording: Recording,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RecordedFile:
    """Record successful episodes of the task's expert into `output`; a finished file is left as it is.

    Args:
        task: what to record, with all of its observations.
        output: the HDF5 file.
        recording: how much, from which seeds, with how much noise.
        workers: processes.
        progress: called with the episodes done and wanted.

    Raises:
        BusyError: if another process is recording into `output`.
        DatasetError: if `output` or an unfinished recording lies there with other settings.
        FiboError: if there is no expert for the task, or it fails most of the time.
    """
    get_expert(task.name)
    task = task.resolved()
    output = Path(output)
    settings = {"task": task.to_dict(), "recording": asdict(recording)}
    env_args = task.env_args()
    env_args["fibo_robot"]["recording"] = settings["recording"]
    if output.exists():
        _check_same(output, settings)
        return _recorded(output, recording)
    with DemonstrationWriter.alone(output, settings) as writer:
        succeeded = _record_parts(writer, task, recording, workers, progress)
        parts = {f"demo_{index}": seed for index, seed in enumerate(succeeded)}
        writer.finish(parts, env_args, split_masks(list(parts)))
    return _recorded(output, recording)


def _record_parts(
    writer: DemonstrationWriter,
    task: Task,
    recording: Recording,
    workers: int,
    progress: Callable[[int, int], None],
) -> list[int]:
    """Record the episodes that are not there yet; returns the seeds of all, ascending."""
    succeeded: set[int] = set()
    failed: set[int] = set()
    next_seed = recording.seed
    while len(succeeded) < recording.episodes:
        seeds = list(range(next_seed, next_seed + recording.episodes - len(succeeded)))
        next_seed = seeds[-1] + 1
        succeeded.update(seed for seed in seeds if writer.has(seed))
        todo = [seed for seed in seeds if seed not in succeeded]
        progress(len(succeeded), recording.episodes)
        job = partial(
            _record_episode, folder=writer, noise=recording.noise, missed_grasps=recording.missed_grasps
        )
        for seed, success in map_with_environment(job, todo, task, None, workers) if todo else ():
            (succeeded if success else failed).add(seed)
            progress(len(succeeded), recording.episodes)
        if len(failed) > recording.episodes + 10:
            raise DatasetError(f"The expert fails more often than it succeeds with noise {recording.noise}.")
    return sorted(succeeded)


def _check_same(output: Path, settings: dict[str, Any]) -> None:
    with DemonstrationFile(output) as file:
        ours = file.env_args.get("fibo_robot", {})
        differing = [
            name
            for part in settings
            for name, value in settings[part].items()
            if (ours.get(part) or {}).get(name) != value
        ]
        if differing:
            raise DatasetError(
                f"{output} exists and was recorded with another {', '.join(differing)}; delete it or choose "
                "another output."
            )


def _recorded(output: Path, recording: Recording) -> RecordedFile:
    with DemonstrationFile(output) as file:
        steps = sum(file.length(demo) for demo in file.demos)
        # Seeds are tried one after another until enough have succeeded: the last one tried is in the file.
        last = max(int(file.attributes(demo)["seed"]) for demo in file.demos)
        return RecordedFile(output, len(file.demos), steps, last - recording.seed + 1)


def _record_episode(
    env: "SimulationEnv", seed: int, folder: DemonstrationWriter, noise: float, missed_grasps: float
) -> tuple[int, bool]:
    demonstration = run_expert(env, seed, noise, missed_grasps)
    if demonstration is not None:
        write_part(folder.part(seed), demonstration)
    return seed, demonstration is not None


def run_expert(
    env: "SimulationEnv", seed: int, noise: float, missed_grasps: float = 0.0
) -> Demonstration | None:
    """One episode of the task's expert, or None if it fails.

    The noise moves the arm, not the gripper; it and a missed grasp belong to the episode's seed. `actions`
    are the executed ones, which replay to the same states; `expert_actions` are what the expert meant to do.
    """
    expert = get_expert(env.task.name)
    generator = np.random.default_rng([seed, 1])
    missed = _missed_grasp(np.random.default_rng([seed, 2]), missed_grasps)
    observation, _ = env.reset(seed=seed)
    rows: dict[str, list[Any]] = {
        key: [] for key in ("actions", "expert_actions", "states", "rewards", "obs")
    }
    since_success = 0
    while since_success <= _STEPS_AFTER_SUCCESS:
        if len(rows["actions"]) == _STEP_LIMIT:
            return None
        intended = expert.act(env)
        action = _CLOSE_AND_RISE.copy() if len(rows["actions"]) in missed else intended.copy()
        action[:6] = np.clip(action[:6] + noise * generator.standard_normal(6), -1.0, 1.0)
        rows["obs"].append(observation)
        rows["states"].append(env.get_state())
        result = env.advance(action)
        rows["actions"].append(action)
        rows["expert_actions"].append(intended)
        rows["rewards"].append(result.reward)
        since_success = since_success + 1 if result.success else 0
        observation = env.observe()
    dones = np.array(rows["rewards"]) > 0
    dones[-1] = True
    return Demonstration(
        obs=stack_observations(rows["obs"]),
        actions=np.array(rows["actions"]),
        states=np.array(rows["states"]),
        rewards=np.array(rows["rewards"]),
        dones=dones.astype(np.int64),
        model_file=env.model_xml,
        attributes={"seed": seed, "success": True},
        extra={"expert_actions": np.array(rows["expert_actions"])},
    )


def _missed_grasp(generator: np.random.Generator, share: float) -> range:
    """The steps of an episode in which it misses its grasp; none, except in `share` of all episodes."""
    if generator.random() >= share:
        return range(0)
    # On the way to the object, and for long enough to close (ten steps) or not quite.
    first = int(generator.integers(2, 16))
    return range(first, first + int(generator.integers(6, 24)))


def stack_observations(observations: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One array per key with time first; pictures become `(T, H, W, 3)`, as robomimic stores them."""
    stacked = {}
    for key in observations[0]:
        array = np.stack([observation[key] for observation in observations])
        stacked[key] = array.transpose(0, 2, 3, 1) if array.dtype == np.uint8 else array
    return stacked
