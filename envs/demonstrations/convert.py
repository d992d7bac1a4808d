"""Turn robomimic's raw files (states and actions) into demonstrations with pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile, dataset_hash
from fibo_robot.envs.demonstrations.layout import demonstration_number
from fibo_robot.envs.demonstrations.pool import map_with_environment
from fibo_robot.envs.demonstrations.record import stack_observations
from fibo_robot.envs.demonstrations.replay import check_replayable, check_states
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, write_part
from fibo_robot.envs.rendering.settings import RenderQuality
from fibo_robot.envs.tasks import TASKS, Task

if TYPE_CHECKING:
    from fibo_robot.envs.simulation.environment import SimulationEnv


@dataclass(frozen=True)
class ConvertedFile:
    """What :func:`convert_demonstrations` made.

    Attributes:
        path: the HDF5 file.
        episodes: demonstrations in it.
        successes: those that solve the task at some step.
        steps: control steps in it.
    """

    path: Path
    episodes: int
    successes: int
    steps: int


def convert_demonstrations(
    raw: Path | str,
    output: Path | str,
    image_size: int | None = None,
    renderer: str = "auto",
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ConvertedFile:
    """Show every recorded state and write what is observed there; an interrupted run continues.

    The demonstrations keep their names, masks, actions, states and what else the file has beside its
    observations, such as `expert_actions`. Rewards and `dones` are computed anew (1 where the task is solved
    after the action; `dones` also at the end), and each demonstration's attribute `success` says whether it
    was solved. The last reward comes from playing the last action.

    Args:
        raw: the file to read.
        output: the file to make.
        image_size: pixels of a picture's side (default: the task's).
        renderer: `auto`, `egl`, `osmesa` or `warp`.
        workers: processes.
        progress: called with the demonstrations done and wanted.

    Raises:
        BusyError: if another process is writing `output`.
        DatasetError: if `raw` cannot be used, or `output` exists already.
    """
    raw, output = Path(raw), Path(output)
    if output.exists():
        raise DatasetError(f"{output} exists already; delete it or choose another output.")
    with DemonstrationFile(raw) as file:
        check_replayable(file)
        task = _observed_task(file.task(), image_size, renderer)
        masks = {key: file.mask(key) for key in file.masks}
        settings = {"source": dataset_hash(raw), "task": task.to_dict()}
        env_args = task.env_args()
        env_args["fibo_robot"]["converted_from"] = {"name": raw.name, "sha256": settings["source"]}
        parts = {demo: demonstration_number(demo) for demo in file.demos}
        with DemonstrationWriter.alone(output, settings) as writer:
            todo = [demo for demo, number in parts.items() if not writer.has(number)]
            done = len(parts) - len(todo)
            progress(done, len(parts))
            job = partial(_convert_demo, raw=file, folder=writer)
            for _ in map_with_environment(job, todo, task, None, workers) if todo else ():
                done += 1
                progress(done, len(parts))
            writer.finish(parts, env_args, masks)
    with DemonstrationFile(output) as file:
        successes = sum(bool(file.attributes(demo)["success"]) for demo in file.demos)
        steps = sum(file.length(demo) for demo in file.demos)
    return ConvertedFile(output, len(parts), successes, steps)


def _observed_task(recorded: Task, image_size: int | None, renderer: str) -> Task:
    standard = {task.env_name: task for task in TASKS.values()}.get(recorded.env_name, recorded)
    return replace(
        recorded,
        cameras=standard.cameras,
        image_size=image_size or standard.image_size,
        quality=RenderQuality(),
        renderer=renderer,
    ).resolved()


def _convert_demo(
    env: "SimulationEnv", demo: str, raw: DemonstrationFile, folder: DemonstrationWriter
) -> None:
    states, actions, attributes = raw.states(demo), raw.actions(demo), raw.attributes(demo)
    check_states(env, states, f"{demo} of {raw.path}")
    env.take_geometry(attributes.get("model_file"))
    observations, solved = [], []
    env.reset_to(states[0])
    for step, state in enumerate(states):
        if step and env.remembers:
            env.advance(actions[step - 1])
        env.show_state(state)
        observations.append(env.observe())
        solved.append(env.success)
    if not env.remembers:
        env.reset_to(states[-1])
    solved.append(env.advance(actions[-1]).success)
    rewards = np.array(solved[1:], dtype=np.float64)
    dones = rewards.astype(np.int64)
    dones[-1] = 1
    kept = {key: value for key, value in attributes.items() if key not in ("num_samples", "model_file")}
    others = [key for key in raw.array_keys(demo) if key not in ("actions", "states", "rewards", "dones")]
    demonstration = Demonstration(
        obs=stack_observations(observations),
        actions=actions,
        states=states,
        rewards=rewards,
        dones=dones,
        model_file=env.model_xml,
        attributes={**kept, "success": bool(rewards.any())},
        extra={key: raw.array(demo, key)[:] for key in others},
    )
    write_part(folder.part(demonstration_number(demo)), demonstration)
