"""A small demonstration file in robomimic's layout, written with h5py alone."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fibo_robot.envs.tasks import get_task

LENGTHS = (12, 9, 15, 7)


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory) -> Path:
    """Four demonstrations of the task Lift; values tell demonstration and time step apart."""
    path = tmp_path_factory.mktemp("demonstrations") / "demos.hdf5"
    task = get_task("lift", renderer="osmesa", horizon=12)
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(task.env_args())
        data.attrs["total"] = sum(LENGTHS)
        for number, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            actions = generator.uniform(-0.5, 0.5, (length, task.action.dim))
            actions[:, 0] = 0.01 * np.arange(length) + 0.2 * number
            demo["actions"] = actions
            demo["states"] = np.zeros((length, 5))
            for key in ("rewards", "dones"):
                demo[key] = np.zeros(length)
            for key in task.image_keys:
                demo[f"obs/{key}"] = generator.integers(0, 255, (length, 84, 84, 3), dtype=np.uint8)
            for key, size in task.low_dim.items():
                demo[f"obs/{key}"] = generator.normal(size=(length, size))
        file["mask/train"] = np.array([b"demo_0", b"demo_1", b"demo_2"])
        file["mask/valid"] = np.array([b"demo_3"])
    return path
