"""LeRobot's dataset format v3: which files there are, and what stands where.

A dataset is a folder. Steps of many episodes lie one after the other in a parquet file, and pictures of many
episodes in one mp4 per camera; `meta/episodes` says where each begins:

    meta/info.json                              features (type and shape by key), frames per second, totals
    meta/stats.json                             minimum, maximum, mean, deviation and quantiles by feature
    meta/tasks.parquet                          what is to be done, in words
    meta/episodes/chunk-000/file-000.parquet    one row per episode: length, offsets in files, statistics
    data/chunk-000/file-000.parquet             one row per step
    videos/KEY/chunk-000/file-000.mp4           pictures

What LeRobot has no place for, and our files need, stands in `meta/fibo_robot.json` (the task) and
`meta/fibo_robot.parquet` (each episode's name, scene and attributes), and in columns that begin with
`fibo_robot.`, which LeRobot's policies do not look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibo_robot.envs.errors import DatasetError
from fibo_robot.extras import require

if TYPE_CHECKING:
    from fibo_robot.envs.demonstrations.lerobot.read import LeRobotFolder

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
OUR_TASK, OUR_EPISODES = "meta/fibo_robot.json", "meta/fibo_robot.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
# LeRobot's own limits, which info.json states.
FILES_PER_CHUNK, DATA_FILE_MB, VIDEO_FILE_MB = 1000, 100, 200

STATE, OBJECT, ACTION = "observation.state", "observation.environment_state", "action"
IMAGES = "observation.images."
OURS = "fibo_robot."
REWARD, DONE = "next.reward", "next.done"
# Columns that every dataset has, by type.
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
DESCRIPTIONS = {
    "lift": "lift the cube",
    "can": "put the can into its bin",
    "square": "put the square nut onto the square peg",
    "stack": "stack the red cube onto the green cube",
    "tool_hang": "assemble the frame and hang the tool onto it",
    "transport": "hand the hammer over and put it into the other bin",
}


@dataclass(frozen=True)
class Feature:
    """One column, or one camera's video.

    Attributes:
        dtype: `video`, `image`, or a number's type.
        shape: of one step; `(H, W, 3)` for pictures.
        names: of its entries, where they have any.
    """

    dtype: str
    shape: tuple[int, ...]
    names: list[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As info.json has it."""
        return {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}


def open_lerobot(folder: Path | str) -> "LeRobotFolder":
    """The dataset in a folder, for which pyarrow is needed.

    Raises:
        DatasetError: it is missing, damaged, or of another layout.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", extra="parquet", purpose="LeRobot's data set format")
    from fibo_robot.envs.demonstrations.lerobot.read import LeRobotFolder

    return LeRobotFolder(folder)


def is_lerobot(path: Path | str) -> bool:
    """Whether a folder is a dataset of LeRobot, of whichever version."""
    return (Path(path) / INFO).is_file()


def describe_task(name: str) -> str:
    """A task in words, for policies that read them."""
    return DESCRIPTIONS.get(name, name.replace("_", " "))


def image_key(camera_key: str) -> str:
    """LeRobot's name of a picture: `agentview_image` is `observation.images.agentview`."""
    return IMAGES + camera_key.removesuffix("_image")


def camera_key(key: str) -> str:
    """The opposite of :func:`image_key`."""
    return key.removeprefix(IMAGES) + "_image"


def state_names(low_dim: Mapping[str, int]) -> list[str]:
    """Names of the entries of `observation.state`, its vectors one after the other: `robot0_eef_pos.0`, …"""
    return [f"{key}.{number}" for key, size in low_dim.items() for number in range(size)]


def parse_info(values: Any, path: Path) -> tuple[dict[str, Any], dict[str, Feature]]:
    """The content of info.json and the features in it.

    Raises:
        DatasetError: it is of another version, or not in this layout.
    """
    version = values.get("codebase_version") if isinstance(values, dict) else None
    if version != VERSION:
        raise DatasetError(
            f"{path} is of LeRobot's dataset format {version or 'unknown'}, {VERSION} is read here. Convert "
            "it with LeRobot: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id …"
        )
    try:
        features = {
            key: Feature(entry["dtype"], tuple(entry["shape"]), _flat_names(entry.get("names")))
            for key, entry in values["features"].items()
        }
        paths = (values["data_path"], values["video_path"], values["fps"], values["total_episodes"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is not in LeRobot's layout {VERSION}: {error} is missing.") from error
    if float(paths[2]) <= 0:
        raise DatasetError(f"{path} says that it has {paths[2]} frames per second.")
    return values, features


def _flat_names(names: Any) -> list[str] | None:
    """Names as a list: LeRobot's files also have them as a mapping with one list in it."""
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return [str(name) for name in names] if isinstance(names, list) else None
