"""What batched worlds take: contacts, constraints and memory, for `envs/warp/physics/capacity.py`.

python scripts/measure_worlds.py docs/results/warp-worlds-cpu.json [TASK ...]

Room is made generous, then two worlds move at random (every entry of an action is held for five control
steps, so that arms go somewhere). Tool hang, which has no expert, is moved from its solved state too: the
frame in its stand and the tool on the frame are the most that touches there. Memory is what Warp's allocator
on a CPU hands out per world, with the room that the task has.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from fibo_robot.benchmarks.harness import write_results
from fibo_robot.benchmarks.warp_memory import bytes_taken
from fibo_robot.envs import get_task
from fibo_robot.envs.simulation.environment import SimulationEnv
from fibo_robot.envs.tasks import Task
from fibo_robot.envs.warp.exporting.from_robosuite import cached_export
from fibo_robot.envs.warp.exporting.start_states import StartState
from fibo_robot.envs.warp.physics.capacity import (
    CAPACITIES,
    Capacity,
    few_worlds,
    memory_needed,
)
from fibo_robot.envs.warp.runtime import import_warp
from fibo_robot.envs.warp.task import WarpTask
from fibo_robot.progress import track

TASKS = ("lift", "can", "square", "stack", "tool_hang", "transport")
WORLDS, STEPS, HELD = 2, 30, 5
SOLVED_STEPS = 2  # with so many contacts one takes seconds
ROOMY = Capacity(600, 2000)


def used_in_motion(task: Task, starts: list[StartState] | None) -> Capacity:
    """The most that random motion takes, from the seeds' start states or from others."""
    worlds = WarpTask(task, WORLDS, "cpu", capacity=ROOMY)
    if starts is None:
        worlds.start(range(WORLDS))
    else:
        worlds.start_from(starts)
        worlds.advance(
            torch.zeros(WORLDS, task.action.dim)
        )  # objects were put into each other by millimetres
    generator, most, actions = np.random.default_rng(0), Capacity(0, 0), torch.zeros(0)
    for step in track(range(STEPS if starts is None else SOLVED_STEPS), f"{task.name}: moving"):
        if step % HELD == 0:
            actions = torch.from_numpy(generator.uniform(-1, 1, (WORLDS, task.action.dim)))
        worlds.advance(actions)
        now = worlds.usage()
        most = Capacity(max(most.contacts, now.contacts), max(most.constraints, now.constraints))
    worlds.close()
    return most


def assembled(env: SimulationEnv) -> StartState:
    """Tool hang's solved state: of all ways round, the first that its own checks accept."""
    env.start(0)
    robosuite = env._robosuite
    data, generator = robosuite.sim.data, np.random.default_rng(0)
    turns = list(Rotation.create_group("O"))

    def put(name: str, site: str, target: np.ndarray, rotation: Rotation) -> None:
        """Turn an object, then move it so that a site of it comes to lie at the target."""
        position = np.zeros(3)
        for _ in range(2):
            pose = np.concatenate([position, np.roll(rotation.as_quat(), 1)])
            data.set_joint_qpos(f"{name}_joint0", pose)
            robosuite.sim.forward()
            position = target - data.get_site_xpos(site)

    base = np.mean([data.get_geom_xpos(f"stand_wall{index}") for index in range(4)], axis=0)
    base[2] = data.get_geom_xpos("stand_base")[2] + 0.005
    for turn in turns:
        put("frame", "frame_tip_site", base, turn)
        if robosuite._check_frame_assembled():
            break
    end, start = (data.get_site_xpos(f"frame_{name}_site").copy() for name in ("hang", "intersection"))
    while True:
        middle = end + generator.uniform(0.1, 0.9) * (start - end) + generator.normal(0, 0.004, 3)
        put("tool", "tool_hole1_center", middle, turns[generator.integers(len(turns))])
        if robosuite._check_success():
            return StartState.of(env)


def bytes_per_world(task: Task) -> float:
    """What one world takes, from two numbers of them; those of the small batch count."""
    few, many = 8, 16
    difference = bytes_taken(task, many) - bytes_taken(task, few)
    return difference / (many + few_worlds(many) - few - few_worlds(few))


def main() -> None:
    """Read the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    arguments = parser.parse_args()
    import_warp()
    rows = []
    for name in arguments.tasks:
        task = get_task(name, cameras=()).resolved()
        cases: dict[str, list[StartState] | None] = {"random motion": None}
        if name == "tool_hang":
            env = task.make_env([])
            cases["random motion from the solved state"] = [assembled(env)] * WORLDS
            env.close()
        room = CAPACITIES[task.env_name]
        used = {case: asdict(used_in_motion(task, starts)) for case, starts in cases.items()}
        taken = bytes_per_world(task)
        model = cached_export(task).mujoco_model()
        row = {
            "case": name,
            "env_name": task.env_name,
            "used": used,
            "room": asdict(room),
            "bytes_per_world": round(taken),
            "estimated_bytes_per_world": memory_needed(model, room).per_world,
        }
        print(row, flush=True)
        rows.append(row)
    write_results(arguments.output, rows)


if __name__ == "__main__":
    main()
