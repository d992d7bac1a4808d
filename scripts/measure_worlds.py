"""What batched worlds take: contacts, constraints and memory, for `envs/warp/physics/capacity.py`.

python scripts/measure_worlds.py docs/results/warp-worlds-cpu.json [TASK ...]

Contacts and constraints are those of the replay beside the output (`fibo demos replay FILE --engine warp
--json warp-replay-TASK-cpu.json`). Where there is none that counted them, two worlds with generous room
move at random (every entry of an action is held for five control steps, so that arms go somewhere). Tool
hang, which has no expert, is moved from its solved state too: the frame in its stand and the tool on the
frame are the most that touches there. Memory is what Warp's allocator on a CPU hands out per world, with
the task's own room.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from random_motion import random_actions
from scipy.spatial.transform import Rotation

from fibo_robot.benchmarks.harness import write_results
from fibo_robot.benchmarks.simulation.memory import bytes_taken
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
WORLDS, STEPS = 2, 30
SOLVED_STEPS = 2  # with so many contacts one takes seconds
ROOMY = Capacity(600, 2000)


def replayed(path: Path) -> dict[str, Capacity]:
    """What a replay took at most, by its file; nothing where there is none, or it did not count."""
    whole = json.loads(path.read_text()) if path.exists() else {}
    return {path.name: Capacity(whole["contacts"], whole["constraints"])} if "contacts" in whole else {}


def used_in_motion(task: Task, start: StartState | None = None) -> Capacity:
    """The most that random motion takes in two worlds from seeds' start states, or in one from another."""
    count = WORLDS if start is None else 1
    worlds = WarpTask(task, count, "cpu", capacity=ROOMY)
    if start is None:
        worlds.start(range(count))
    else:
        worlds.start_from([start])
        worlds.advance(torch.zeros(count, task.action.dim))  # objects may intersect by millimetres
    steps, most = STEPS if start is None else SOLVED_STEPS, Capacity(0, 0)
    moves = random_actions(np.random.default_rng(0), steps, count, task.action.dim)
    for actions in track(torch.from_numpy(moves), f"{task.name}: moving", total=steps):
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
        room = CAPACITIES[task.env_name]
        used = replayed(arguments.output.with_name(f"warp-replay-{name}-cpu.json"))
        if not used:
            used["random motion"] = used_in_motion(task)
        if name == "tool_hang":
            env = task.make_env([])
            used["from the solved state"] = used_in_motion(task, assembled(env))
            env.close()
        taken = bytes_per_world(task)
        model = cached_export(task).mujoco_model()
        row = {
            "case": name,
            "env_name": task.env_name,
            "used": {case: asdict(most) for case, most in used.items()},
            "room": asdict(room),
            "bytes_per_world": round(taken),
            "estimated_bytes_per_world": memory_needed(model, room).per_world,
        }
        print(row, flush=True)
        rows.append(row)
    write_results(arguments.output, rows)


if __name__ == "__main__":
    main()
