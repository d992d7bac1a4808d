"""From a robomimic file with pictures to a dataset in LeRobot's format v3."""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.lerobot import layout, statistics, tables
from fibo_robot.envs.demonstrations.lerobot.columns import Columns
from fibo_robot.envs.demonstrations.lerobot.layout import Feature
from fibo_robot.envs.demonstrations.lerobot.mp4 import Codec, VideoWriter
from fibo_robot.envs.simulation.object_state import OBJECT_STATES
from fibo_robot.envs.tasks import Task
from fibo_robot.files import replace_atomically

_MB = 1024**2


def write_lerobot(
    source: Path | str,
    target: Path | str,
    codec: Codec = "av1",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a dataset of LeRobot's format v3 with what a robomimic file holds.

    Observations that the file's task does not have are left out, which is warned of.

    Pictures lose what the codec loses. Actions, states and whatever else is no observation are kept bit for
    bit (columns `fibo_robot.…`); LeRobot's own columns, which learners read, are float32.

    Args:
        source: the HDF5 file, with observations.
        target: the folder to make; an earlier dataset there is replaced once the new one is complete.
        codec: of the videos.
        progress: called with the demonstrations done and wanted.

    Returns:
        how many episodes were written.

    Raises:
        DatasetError: the file is damaged, has no pictures or something that does not fit the format, or
            `target` holds something else.
    """
    target = Path(target)
    if target.exists() and not (target / layout.INFO).is_file():
        raise DatasetError(f"{target} exists and is no dataset of LeRobot: name another folder.")
    with DemonstrationFile(source) as file:
        task = file.task()
        cameras = [key for key in file.obs_keys if key in task.image_keys]
        if not cameras:
            raise DatasetError(
                f"{source} has no pictures: draw them with `fibo demos convert {source} --output FILE.hdf5`."
            )
        left_out = set(file.obs_keys).difference(task.low_dim, task.image_keys)
        if left_out:
            warnings.warn(
                f"The task {task.name} has no {', '.join(sorted(left_out))}: left out of {target}.",
                stacklevel=2,
            )
        file.check(action_dim=task.action.dim)
        with replace_atomically(target) as temporary:
            _Writer(temporary, file, task, cameras, codec).write(progress)
        return len(file.demos)


@dataclass
class _Place:
    """Which file is being filled: its numbers, and how much is in it."""

    chunk_index: int = 0
    file_index: int = 0

    def next(self) -> None:
        self.file_index += 1
        if self.file_index == layout.FILES_PER_CHUNK:
            self.chunk_index, self.file_index = self.chunk_index + 1, 0


@dataclass
class _Video:
    """The video of one camera that is being filled, and what was seen through the camera so far."""

    place: _Place = field(default_factory=_Place)
    writer: VideoWriter | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), dtype=np.int64))


class _Writer:
    """Writes one dataset, episode by episode."""

    def __init__(
        self, root: Path, file: DemonstrationFile, task: Task, cameras: list[str], codec: Codec
    ) -> None:
        self.root, self.file, self.task = root, file, task
        self.codec: Codec = codec
        self.cameras = cameras
        self.columns = Columns(file, task)
        self.videos = {key: _Video() for key in cameras}
        self.kept: dict[str, list[np.ndarray]] = {}  # vectors of all episodes, for statistics
        self.rows: list[dict[str, Any]] = []
        self.data_place = _Place()
        self.data: pq.ParquetWriter | None = None

    def write(self, progress: Callable[[int, int], None]) -> None:
        first = 0
        try:
            for number, demo in enumerate(self.file.demos):
                first = self._episode(number, demo, first)
                progress(number + 1, len(self.file.demos))
        finally:
            for video in self.videos.values():
                if video.writer is not None:
                    video.writer.close()
            if self.data is not None:
                self.data.close()
        self._describe(first)

    def _episode(self, number: int, demo: str, first: int) -> int:
        """Write one demonstration whose first step is the dataset's step `first`; returns the next one's."""
        columns = self.columns.read(demo)
        length = len(columns[layout.ACTION])
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [layout.describe_task(self.task.name)],
            "length": length,
            "dataset_from_index": first,
            "dataset_to_index": first + length,
        }
        of_episode = {key: statistics.of_vectors(_as_rows(values)) for key, values in columns.items()}
        for key in self.cameras:
            lerobots = layout.image_key(key)
            pictures = self.file.observation(demo, key)
            start = self._film(key, pictures)
            place = self.videos[key].place
            at = f"videos/{lerobots}"
            row |= {f"{at}/{name}": index for name, index in vars(place).items()}
            row |= {f"{at}/from_timestamp": start, f"{at}/to_timestamp": start + length / self.fps}
            counts = statistics.colour_counts(pictures)
            self.videos[key].counts += counts
            of_episode[lerobots] = statistics.of_pictures(counts, length)
            sides = ["height", "width", "channels"]
            self.columns.take_feature(demo, lerobots, Feature("video", pictures.shape[1:], sides))
        counters = {
            "timestamp": np.arange(length, dtype=np.float32) / np.float32(self.fps),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(first, first + length),
            "task_index": np.zeros(length, dtype=np.int64),
        }
        self._append({**columns, **counters})
        row |= {f"data/{name}": index for name, index in vars(self.data_place).items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {f"stats/{key}/{name}": v for key, values in of_episode.items() for name, v in values.items()}
        self.rows.append(row)
        for key, values in columns.items():
            self.kept.setdefault(key, []).append(values)
        return first + length

    @property
    def fps(self) -> int:
        return self.task.control_freq

    def _film(self, key: str, pictures: np.ndarray) -> float:
        """Append an episode's pictures to its camera's video; returns the second at which it begins there."""
        if pictures.shape[1] % 2 or pictures.shape[2] % 2:
            raise DatasetError(f"{key} has sides of an odd number of pixels, which videos cannot have.")
        video = self.videos[key]
        names = {"video_key": layout.image_key(key)}
        if video.writer is not None and video.writer.size > layout.VIDEO_FILE_MB * _MB:
            video.writer.close()
            video.writer = None
            video.place.next()
        if video.writer is None:
            path = self.root / layout.VIDEO.format(**names, **vars(video.place))
            path.parent.mkdir(parents=True, exist_ok=True)
            video.writer = VideoWriter(path, self.fps, self.codec)
        start = video.writer.frames / self.fps
        video.writer.append(pictures)
        return start

    def _append(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append an episode's rows to the data file, or begin the next one where it is full."""
        table = pa.table({key: tables.to_arrow(values) for key, values in columns.items()})
        path = self.root / layout.DATA.format(**vars(self.data_place))
        if self.data is not None and path.stat().st_size > layout.DATA_FILE_MB * _MB:
            self.data.close()
            self.data = None
            self.data_place.next()
            path = self.root / layout.DATA.format(**vars(self.data_place))
        if self.data is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.data = pq.ParquetWriter(path, table.schema)
        self.data.write_table(table)

    def _describe(self, steps: int) -> None:
        """Write everything below meta/."""
        file, names = self.file, self.file.demos
        (self.root / "meta").mkdir(exist_ok=True)
        stats: dict[str, Any] = {}
        for key, parts in self.kept.items():
            stats[key] = statistics.of_vectors(_as_rows(np.concatenate(parts)))
        for key, video in self.videos.items():
            stats[layout.image_key(key)] = statistics.of_pictures(video.counts, steps)
        tables.write_json(self.root / layout.STATS, stats)
        counters = {key: Feature(dtype, (1,)) for key, dtype in layout.COUNTERS.items()}
        features = {key: feature.to_dict() for key, feature in {**self.columns.features, **counters}.items()}
        for key in self.cameras:
            features[layout.image_key(key)]["info"] = self._video_info(key)
        info = {
            "codebase_version": layout.VERSION,
            "robot_type": "+".join(robot.lower() for robot in self.task.robots),
            "total_episodes": len(names),
            "total_frames": steps,
            "total_tasks": 1,
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{len(names)}"},
            "data_path": layout.DATA,
            "video_path": layout.VIDEO,
            "features": features,
        }
        tables.write_json(self.root / layout.INFO, info)
        episodes = self.root / layout.EPISODES.format(chunk_index=0, file_index=0)
        tables.write_table(episodes, pa.Table.from_pylist(self.rows))
        tables.write_table(
            self.root / layout.TASKS, tables.tasks_table([layout.describe_task(self.task.name)])
        )
        masks = {key: file.mask(key) for key in file.masks}
        tables.write_json(
            self.root / layout.OUR_TASK,
            {"env_args": self._env_args(), "state": self.columns.state_keys, "masks": masks},
        )
        ours = []
        for demo in names:
            attributes = {key: tables.plain(value) for key, value in file.attributes(demo).items()}
            model = attributes.pop("model_file", None)
            ours.append({"name": demo, "model_file": model, "attributes": json.dumps(attributes)})
        tables.write_table(self.root / layout.OUR_EPISODES, pa.Table.from_pylist(ours))

    def _env_args(self) -> dict[str, Any]:
        """The file's, and that its object observations have been brought into this program's order."""
        if not self.columns.has_object:
            return self.file.env_args
        names = [entry.name for entry in OBJECT_STATES[self.task.env_name]]
        ours = {**self.file.env_args.get("fibo_robot", {}), "object_state": names}
        return {**self.file.env_args, "fibo_robot": ours}

    def _video_info(self, key: str) -> dict[str, Any]:
        height, width, channels = self.columns.features[layout.image_key(key)].shape
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self.codec,
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": self.fps,
            "video.channels": channels,
            "has_audio": False,
        }


def _as_rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
