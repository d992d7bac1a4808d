"""Reading datasets in LeRobot's format v3, whoever wrote them; pictures are decoded when asked for."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import ArrowException

from fibo_robot.envs.demonstrations.lerobot import layout
from fibo_robot.envs.demonstrations.lerobot.mp4 import VideoFile
from fibo_robot.envs.errors import DatasetError
from fibo_robot.envs.robomimic_metadata import recorded_seeds, task_from_env_args
from fibo_robot.envs.tasks import Task

_VIDEOS_HELD_OPEN = 64  # an mp4 holds many episodes; each keeps its index and a decoder in memory


class LeRobotFolder:
    """A dataset of LeRobot's format v3.

    Demonstrations go by the names they had in the file that it was written from, else by `demo_0`, `demo_1`
    and so on. Observations go by our keys: `agentview_image` for `observation.images.agentview`, and the
    vectors that `observation.state` is made of where the dataset was written here; every feature also goes by
    LeRobot's own key.

    Attributes:
        path: the folder.
        info: the content of info.json.
        features: what a step has, by LeRobot's keys.
        fps: steps per second.
        demos: names of all demonstrations, in their order.
    """

    def __init__(self, path: Path | str) -> None:
        """Read what the dataset says of itself; no step and no picture yet.

        Raises:
            DatasetError: it is missing, damaged, or of another layout.
        """
        self.path = Path(path)
        if not layout.is_lerobot(path):
            raise DatasetError(f"{path} is no dataset of LeRobot: it has no {layout.INFO}.")
        self.info, self.features = layout.parse_info(self._json(layout.INFO), self.path / layout.INFO)
        self.fps = float(self.info["fps"])
        files = sorted(self.path.glob("meta/episodes/*/*.parquet"))
        rows = [row for file in files for row in self._table(file).to_pylist()]
        self._episodes = sorted(rows, key=lambda row: row["episode_index"])
        if [row["episode_index"] for row in self._episodes] != list(range(self.info["total_episodes"])):
            raise DatasetError(
                f"{self.path} describes {len(rows)} episodes, its info.json says "
                f"{self.info['total_episodes']}: files are missing."
            )
        self._ours: dict[str, Any] | None = None
        self._of_episode: list[dict[str, Any]] = []
        if (self.path / layout.OUR_TASK).is_file():
            self._ours = self._json(layout.OUR_TASK)
            self._of_episode = self._table(self.path / layout.OUR_EPISODES).to_pylist()
        names = [row["name"] for row in self._of_episode] or [f"demo_{n}" for n in range(len(rows))]
        self._number = {name: number for number, name in enumerate(names)}
        self._cache: dict[Path, pa.Table] = {}
        self._videos: dict[Path, VideoFile] = {}
        self._opener = os.getpid()

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return str(self.path)

    @property
    def demos(self) -> list[str]:
        """Names of all demonstrations, in their order."""
        return list(self._number)

    @property
    def cameras(self) -> list[str]:
        """Our keys of its pictures."""
        return [layout.camera_key(key) for key, feature in self.features.items() if feature.dtype == "video"]

    @property
    def obs_keys(self) -> list[str]:
        """Our keys of its observations."""
        has_object = ["object"] if layout.OBJECT in self.features else []
        return sorted([*self.cameras, *self._state_places, *has_object])

    @property
    def masks(self) -> dict[str, list[str]]:
        """Names of demonstrations by filter key; none in a dataset of others."""
        return {} if self._ours is None else self._ours["masks"]

    @property
    def env_args(self) -> dict[str, Any] | None:
        """robomimic's environment metadata, where it was written from such a file."""
        return None if self._ours is None else self._ours["env_args"]

    def task(self) -> Task:
        """The simulated task that was demonstrated.

        Raises:
            DatasetError: it does not say which.
        """
        if self.env_args is None:
            raise DatasetError(
                f"{self.path} does not say which simulated task it shows: others than `fibo demos convert` "
                f"write no {layout.OUR_TASK}."
            )
        return task_from_env_args(self.env_args, self.name)

    def mask(self, filter_key: str) -> Sequence[str]:
        """Demonstrations under a filter key; raises DatasetError for one that is not there."""
        if filter_key not in self.masks:
            raise DatasetError(
                f"{self.path} has no mask {filter_key!r}; it has: {', '.join(self.masks) or 'none'}."
            )
        return self.masks[filter_key]

    def seeds(self, demos: Sequence[str]) -> list[int]:
        """From which seeds they were recorded here, ascending, as their file said; none of other files."""
        return recorded_seeds(self.env_args or {}, map(self.attributes, demos))

    def content_hash(self) -> str:
        """SHA-256 of all its files and their names; reads all of it."""
        digest = hashlib.sha256()
        for path in sorted(path for path in self.path.rglob("*") if path.is_file()):
            digest.update(path.relative_to(self.path).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def check(self, demos: Sequence[str], action_dim: int, action_key: str) -> None:
        """Refuse what would stop or spoil training, before it begins.

        Raises:
            DatasetError: a demonstration is damaged or empty, or its actions have another length or numbers
                that are not finite.
        """
        for demo in demos:
            actions = self.actions(demo, action_key)
            if len(actions) == 0 or actions.shape[1:] != (action_dim,) or not np.isfinite(actions).all():
                raise DatasetError(
                    f"{demo} of {self.path} has {action_key} of shape {actions.shape}, the task takes "
                    f"(steps, {action_dim}), all of them finite: remove it from its mask."
                )

    def instruction(self, demo: str) -> str:
        """What is to be done, in words."""
        return " ".join(self._row(demo)["tasks"])

    def length(self, demo: str) -> int:
        """Number of steps of one demonstration."""
        return self._row(demo)["length"]

    def attributes(self, demo: str) -> dict[str, Any]:
        """What its file said of one demonstration, `model_file` among it; nothing in a dataset of others."""
        if not self._of_episode:
            return {}
        row = self._of_episode[self._number[demo]]
        model = {} if row["model_file"] is None else {"model_file": row["model_file"]}
        return {**json.loads(row["attributes"]), **model}

    def actions(self, demo: str, action_key: str = "actions") -> np.ndarray:
        """Actions `(T, A)`: exactly as executed where it was written here, else LeRobot's float32."""
        exact = layout.OURS + action_key
        if exact in self.features or action_key != "actions":
            return self.column(demo, exact)
        return self.column(demo, layout.ACTION)

    def vectors(self, demo: str, key: str) -> np.ndarray:
        """A low-dimensional observation, float32 `(T, D)`.

        Raises:
            DatasetError: there is no such one.
        """
        if key == "object":
            return self.column(demo, layout.OBJECT)
        if key in self._state_places:
            return self.column(demo, layout.STATE)[:, self._state_places[key]]
        raise DatasetError(f"{self.path} has no observation {key!r}; it has: {', '.join(self.obs_keys)}.")

    def column(self, demo: str, key: str) -> np.ndarray:
        """A feature by LeRobot's key, `(T, D)`, or `(T,)` where a step has one number.

        Raises:
            DatasetError: there is no such column, or it is damaged.
        """
        table = self._steps(self._number[self._known(demo)], key)
        values = table.column(key).combine_chunks()
        nested = values.type
        flat = values.flatten() if pa.types.is_nested(nested) else values
        array = flat.to_numpy(zero_copy_only=False)
        shape = self.features[key].shape if key in self.features else (1,)
        if array.size != len(table) * int(np.prod(shape)):
            raise DatasetError(
                f"{demo} of {self.path} has {array.size} numbers of {key}, not {shape} a step."
            )
        return array if shape == (1,) else array.reshape(len(table), *shape)

    def picture_shape(self, demo: str, key: str) -> tuple[int, ...]:
        """Shape `(H, W, 3)` of one picture."""
        return self._camera(key).shape

    def pictures(self, demo: str, key: str) -> np.ndarray:
        """All pictures of one camera, uint8 `(T, H, W, 3)`."""
        into = np.empty((self.length(demo), *self.picture_shape(demo, key)), dtype=np.uint8)
        self.read_pictures(demo, key, 0, into)
        return into

    def read_pictures(self, demo: str, key: str, first: int, into: np.ndarray) -> None:
        """Fill `into`, uint8 `(N, H, W, 3)`, with the pictures of the steps from `first` on."""
        self._camera(key)
        row, lerobots = self._row(demo), layout.image_key(key)
        try:
            at = {name: row[f"videos/{lerobots}/{name}"] for name in ("chunk_index", "file_index")}
            start = row[f"videos/{lerobots}/from_timestamp"]
        except KeyError as error:
            raise DatasetError(f"{self.path} does not say where {error} of {demo} lies.") from error
        path = self.path / self.info["video_path"].format(video_key=lerobots, **at)
        self._video(path).read(start + first / self.fps, self.fps, into)

    def close(self) -> None:
        """Forget what was read, and close what is open."""
        self._cache.clear()
        while self._videos:
            self._videos.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_videos": {}}

    def _video(self, path: Path) -> VideoFile:
        """The mp4, open in this process."""
        if self._opener != os.getpid():
            # Those of the process that this one was forked from: a decoder is not shared.
            self._videos, self._opener = {}, os.getpid()
        video = self._videos.get(path)
        if video is None:
            if len(self._videos) >= _VIDEOS_HELD_OPEN:
                self._videos.pop(next(iter(self._videos))).close()
            video = self._videos[path] = VideoFile(path)
        return video

    @cached_property
    def _state_places(self) -> dict[str, slice]:
        """Where in `observation.state` each of our vectors stands."""
        places, first = {}, 0
        for key, size in ({} if self._ours is None else self._ours["state"]).items():
            places[key] = slice(first, first + size)
            first += size
        return places

    def _camera(self, key: str) -> layout.Feature:
        feature = self.features.get(layout.image_key(key))
        if feature is None or feature.dtype != "video":
            raise DatasetError(
                f"{self.path} has no video {key!r}; it has: {', '.join(self.cameras) or 'none'}."
            )
        return feature

    def _known(self, demo: str) -> str:
        if demo not in self._number:
            raise DatasetError(f"{self.path} has no demonstration {demo!r}.")
        return demo

    def _row(self, demo: str) -> dict[str, Any]:
        return self._episodes[self._number[self._known(demo)]]

    def _steps(self, number: int, key: str) -> pa.Table:
        """A column of one episode, in the order of time."""
        row = self._episodes[number]
        at = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        path = self.path / self.info["data_path"].format(**at)
        if path not in self._cache:
            self._cache = {path: self._table(path)}  # the episodes are gone through one after the other
        table = self._cache[path]
        if key not in table.column_names:
            known = ", ".join(table.column_names)
            raise DatasetError(f"{path} has no column {key!r}; it has: {known}.")
        # Only what is asked for: to pick the rows of all columns takes many times as long.
        table = table.select(list(dict.fromkeys((key, "episode_index", "frame_index"))))
        table = table.filter(pc.field("episode_index") == number).sort_by("frame_index")
        if len(table) != row["length"]:
            raise DatasetError(
                f"{path} has {len(table)} steps of episode {number}, meta/episodes says {row['length']}."
            )
        return table

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.path / name} cannot be read: {error}.") from error

    def _table(self, path: Path) -> pa.Table:
        try:
            table = pq.read_table(path)
        except (OSError, ArrowException) as error:
            raise DatasetError(f"{path} cannot be read: {error}.") from error
        return table.select([name for name in table.column_names if not name.startswith("stats/")])
