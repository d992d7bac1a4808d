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


@dataclass(frozen=True)
class Recording:
    """What a recorded file depends on, besides the task.

    Attributes:
        episodes: demonstrations in the file, all successful.
        seed: of the first episode; the others follow it, and failed ones are left out.
        noise: standard deviation of the Gaussian noise on the executed motion (an action's range is 1).
    """

    episodes: int
    seed: int = 0
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.seed < 0 or self.noise < 0:
            raise DatasetError("A recording needs at least one episode, and a seed and noise of at least 0.")


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
    writer = DemonstrationWriter(output, settings)
    succeeded: set[int] = set()
    failed: set[int] = set()
    next_seed = recording.seed
    while len(succeeded) < recording.episodes:
        seeds = list(range(next_seed, next_seed + recording.episodes - len(succeeded)))
        next_seed = seeds[-1] + 1
        succeeded.update(seed for seed in seeds if writer.has(seed))
        todo = [seed for seed in seeds if seed not in succeeded]
        progress(len(succeeded), recording.episodes)
        job = partial(_record_episode, folder=writer, noise=recording.noise)
        for seed, success in map_with_environment(job, todo, task, None, workers) if todo else ():
            (succeeded if success else failed).add(seed)
            progress(len(succeeded), recording.episodes)
        if len(failed) > recording.episodes + 10:
            raise DatasetError(f"The expert fails more often than it succeeds with noise {recording.noise}.")
    parts = {f"demo_{index}": seed for index, seed in enumerate(sorted(succeeded))}
    writer.finish(parts, env_args, split_masks(list(parts)))
    return _recorded(output, recording)


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
    env: "SimulationEnv", seed: int, folder: DemonstrationWriter, noise: float
) -> tuple[int, bool]:
    demonstration = run_expert(env, seed, noise)
    if demonstration is not None:
        write_part(folder.part(seed), demonstration)
    return seed, demonstration is not None


def run_expert(env: "SimulationEnv", seed: int, noise: float) -> Demonstration | None:
    """One episode of the task's expert, or None if it fails.

    The noise moves the arm, not the gripper, and belongs to the episode's seed. `actions` are the executed
    ones, which replay to the same states; `expert_actions` are those before noise was added.
    """
    expert = get_expert(env.task.name)
    generator = np.random.default_rng([seed, 1])
    observation, _ = env.reset(seed=seed)
    rows: dict[str, list[Any]] = {
        key: [] for key in ("actions", "expert_actions", "states", "rewards", "obs")
    }
    since_success = 0
    while since_success <= _STEPS_AFTER_SUCCESS:
        if len(rows["actions"]) == _STEP_LIMIT:
            return None
        intended = expert.act(env)
        action = intended.copy()
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


def stack_observations(observations: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One array per key with time first; pictures become `(T, H, W, 3)`, as robomimic stores them."""
    stacked = {}
    for key in observations[0]:
        array = np.stack([observation[key] for observation in observations])
        stacked[key] = array.transpose(0, 2, 3, 1) if array.dtype == np.uint8 else array
    return stacked
