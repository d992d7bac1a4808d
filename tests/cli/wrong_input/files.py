"""Files of demonstrations that cannot be used."""

import json
from pathlib import Path

import h5py
import numpy as np

# What is wrong with a demonstration file, and the words that must say so.
BAD_FILES = {
    "missing": "does not exist",
    "folder": "is a folder",
    "empty": "truncated or no HDF5",
    "text": "truncated or no HDF5",
    "truncated": "truncated or no HDF5",
    "not_robomimic": "not in robomimic's layout",
    "no_demonstrations": "holds no demonstrations",
    "no_actions": "has no actions",
    "words_for_actions": "actions of demo_0 are no numbers",
    "flat_actions": "not one row for each step",
    "link_to_nowhere": "obs/lost is no array",
}


def write_robomimic_file(path: Path, key: str = "actions", values: np.ndarray | None = None) -> Path:
    """A file as robomimic writes it, as far as it goes; large enough to be cut in half."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        demo = data.create_group("demo_0")
        demo.create_dataset(key, data=np.zeros((5000, 7)) if values is None else values)
    return path


def write_bad_file(kind: str) -> Path:
    path = Path("demos.hdf5")
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("not HDF5 at all\n" * 100)
        case "folder":
            path.mkdir()
        case "truncated":
            write_robomimic_file(path)
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        case "not_robomimic":
            with h5py.File(path, "w") as file:
                file["weights"] = np.zeros(3)
        case "no_demonstrations":
            write_robomimic_file(path)
            with h5py.File(path, "r+") as file:
                del file["data/demo_0"]
        case "no_actions":
            write_robomimic_file(path, key="something_else")
        case "words_for_actions":
            write_robomimic_file(path, values=np.array([b"left"] * 5000))
        case "flat_actions":
            write_robomimic_file(path, values=np.zeros(5000))
        case "link_to_nowhere":
            write_robomimic_file(path)
            with h5py.File(path, "r+") as file:
                file["data/demo_0/obs/lost"] = h5py.SoftLink("/nowhere")
    return path
