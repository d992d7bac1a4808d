"""Small demonstrations that nobody recorded, and files of them."""

from pathlib import Path

import numpy as np

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, split_masks, write_part


def demonstration(length: int, value: float) -> Demonstration:
    return Demonstration(
        obs={
            "agentview_image": np.full((length, 8, 8, 3), int(value), np.uint8),
            "robot0_eef_pos": np.full((length, 3), value, np.float32),
        },
        actions=np.full((length, 7), value),
        states=np.full((length, 32), value),
        rewards=np.zeros(length),
        dones=np.zeros(length, np.int64),
        model_file="<mujoco/>",
        attributes={"seed": int(value)},
    )


def write_file(path: Path, count: int = 12) -> Path:
    task = get_task("lift", renderer="egl")
    writer = DemonstrationWriter(path, {"n": count})
    for number in range(count):
        write_part(writer.part(number), demonstration(4 + number, number))
    parts = {f"demo_{number}": number for number in range(count)}
    writer.finish(parts, task.env_args(), split_masks(list(parts)))
    return path
