"""From a dataset of LeRobot's format v3, written here, back to a robomimic file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.demonstrations.lerobot import layout
from fibo_robot.envs.demonstrations.lerobot.read import LeRobotFolder
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, write_part

_OWN = ("actions", "states", "rewards", "dones")


def lerobot_to_hdf5(
    source: Path | str, target: Path | str, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Write the robomimic file that a dataset was made of; an interrupted run continues.

    Actions, states and all that is no observation are those of that file bit for bit; observed vectors are
    float32, and pictures as the video kept them.

    Args:
        source: the dataset's folder.
        target: the HDF5 file to make, named .hdf5 or .h5.
        progress: called with the demonstrations done and wanted.

    Returns:
        how many demonstrations were written.

    Raises:
        BusyError: another process is writing `target`.
        DatasetError: the dataset is damaged, or was not written by `fibo demos convert`; or `target` exists
            already, or is named otherwise.
    """
    target = Path(target)
    if target.suffix not in (".hdf5", ".h5"):
        raise DatasetError(f"A dataset of LeRobot becomes an HDF5 file: name it .hdf5, not {target}.")
    if target.exists():
        raise DatasetError(f"{target} exists already; delete it or choose another output.")
    dataset = LeRobotFolder(source)
    env_args = dataset.env_args
    if env_args is None:
        dataset.task()  # says what is missing
        raise DatasetError(f"{source} does not say which simulated task it shows.")
    with DemonstrationWriter.alone(target, {"lerobot": dataset.content_hash()}) as writer:
        for number, demo in enumerate(dataset.demos):
            if not writer.has(number):
                write_part(writer.part(number), _demonstration(dataset, demo))
            progress(number + 1, len(dataset.demos))
        writer.finish({demo: number for number, demo in enumerate(dataset.demos)}, env_args, dataset.masks)
    return len(dataset.demos)


def _demonstration(dataset: LeRobotFolder, demo: str) -> Demonstration:
    ours = [key.removeprefix(layout.OURS) for key in dataset.features if key.startswith(layout.OURS)]
    arrays = {key: dataset.column(demo, layout.OURS + key) for key in ours}
    lacking = [key for key in _OWN if key not in arrays]
    if lacking:
        raise DatasetError(f"{dataset.path} lacks {', '.join(lacking)} of a robomimic file.")
    cameras = dataset.cameras
    obs: dict[str, np.ndarray] = {
        key: dataset.pictures(demo, key) if key in cameras else dataset.vectors(demo, key)
        for key in dataset.obs_keys
    }
    attributes = dataset.attributes(demo)
    attributes.pop("num_samples", None)
    return Demonstration(
        obs=obs,
        **{key: arrays.pop(key) for key in _OWN},
        model_file=attributes.pop("model_file", ""),
        attributes=attributes,
        extra=arrays,
    )
