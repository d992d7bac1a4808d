"""A robomimic file with pictures that tell demonstration and step apart."""

import json
from pathlib import Path

import h5py
import numpy as np

from fibo_robot.envs.simulation.object_state import OBJECT_STATES
from fibo_robot.envs.tasks import get_task

LENGTHS = (5, 8, 3)
CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")


def level(demo: int, step: int) -> int:
    """Grey of the picture at one step of one demonstration; no two are equal."""
    return 30 + 14 * (sum(LENGTHS[:demo]) + step) % 220


def write_demonstrations(path: Path) -> Path:
    """Write demonstrations of the task Lift, whose actions and states need float64."""
    task = get_task("lift", renderer="osmesa")
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        order = [entry.name for entry in OBJECT_STATES["Lift"]]
        ours = {"task": task.to_dict(), "object_state": order}
        env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {}, "fibo_robot": ours}
        data.attrs["env_args"] = json.dumps(env_args)
        for number, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update(
                {"num_samples": length, "model_file": f"<mujoco n='{number}'/>", "seed": 7 + number}
            )
            demo["actions"] = generator.uniform(-1, 1, (length, 7))
            demo["expert_actions"] = generator.uniform(-1, 1, (length, 7))
            demo["states"] = generator.normal(size=(length, 32))
            demo["rewards"] = np.arange(length) == length - 1
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
            for key, size in task.low_dim.items():
                demo[f"obs/{key}"] = generator.normal(size=(length, size)).astype(np.float32)
            levels = [level(number, step) for step in range(length)]
            pictures = np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (length, 84, 84, 3))
            for key in CAMERAS:
                demo[f"obs/{key}"] = pictures
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
        file["mask/valid"] = np.array([b"demo_1"])
    return path
