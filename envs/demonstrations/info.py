"""What a file of demonstrations holds, in words and in pictures; no simulator is started."""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.robomimic_metadata import recording_of
from fibo_robot.files import replace_atomically

# Frames narrower than this are enlarged by a whole factor, to be seen on a screen, pixels.
_FRAME_WIDTH = 160
_MARGIN = 4
_LINE = 14


@dataclass(frozen=True)
class ObservationInfo:
    """One observation of a file: the shape of one step's, and its number type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class DatasetInfo:
    """What a file of demonstrations holds.

    Attributes:
        path: the file.
        env_name: robosuite's environment.
        versions: what the file was made with, by package.
        demonstrations: how many.
        steps: of all of them together.
        shortest: steps of the shortest one.
        median_length: steps.
        longest: steps of the longest one.
        successes: how many are marked as successful, or have a reward above 0 where they bear no mark; None
            if some have neither.
        tries: episodes that were played to record them; None if the file does not say.
        action_low: smallest value of each entry of an action, `(A,)`.
        action_high: largest value.
        masks: demonstrations under each filter key.
        observations: by key.
    """

    path: str
    env_name: str
    versions: dict[str, str]
    demonstrations: int
    steps: int
    shortest: int
    median_length: float
    longest: int
    successes: int | None
    tries: int | None
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    masks: dict[str, int]
    observations: dict[str, ObservationInfo]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines to read."""
        successes = "not recorded" if self.successes is None else f"{self.successes} of {self.demonstrations}"
        ranges = " ".join(f"[{low:.2f}, {high:.2f}]" for low, high in zip(self.action_low, self.action_high))
        rows = {
            "environment": self.env_name,
            "made with": ", ".join(f"{name} {version}" for name, version in self.versions.items())
            or "unknown",
            "demonstrations": f"{self.demonstrations}" + (f" of {self.tries} tries" if self.tries else ""),
            "steps": f"{self.steps}; shortest {self.shortest}, median {self.median_length:g}, "
            f"longest {self.longest}",
            "successes": successes,
            "actions": f"{len(self.action_low)} entries, from their least to their greatest value: {ranges}",
            "masks": ", ".join(f"{name} ({count})" for name, count in self.masks.items()) or "none",
            "observations": "none: a raw file, see `fibo demos convert`" if not self.observations else "",
        }
        lines = [self.path, *(f"  {name:<15} {value}".rstrip() for name, value in rows.items())]
        lines += [
            f"    {key:<28} {'x'.join(map(str, seen.shape))} {seen.dtype}"
            for key, seen in self.observations.items()
        ]
        return "\n".join(lines)


def describe_demonstrations(path: Path | str) -> DatasetInfo:
    """Read what a robomimic file holds, raw or with observations.

    Raises:
        DatasetError: if the file is missing, damaged or of another layout, a demonstration is empty, or the
            demonstrations differ in their observations or in the length of an action.
    """
    with DemonstrationFile(path) as file:
        lengths = [file.length(demo) for demo in file.demos]
        if 0 in lengths:
            raise DatasetError(f"{file.demos[lengths.index(0)]} of {path} has no steps; remove it.")
        low, high = _action_ranges(file)
        return DatasetInfo(
            path=str(path),
            env_name=str(file.env_args["env_name"]),
            versions=file.versions,
            demonstrations=len(file.demos),
            steps=sum(lengths),
            shortest=min(lengths),
            median_length=float(median(lengths)),
            longest=max(lengths),
            successes=_count_successes(file),
            tries=_count_tries(file),
            action_low=tuple(low.tolist()),
            action_high=tuple(high.tolist()),
            masks={key: len(file.mask(key)) for key in file.masks},
            observations={key: _observation(file, key) for key in file.obs_keys},
        )


def _action_ranges(file: DemonstrationFile) -> tuple[np.ndarray, np.ndarray]:
    lows, highs = [], []
    for demo in file.demos:
        actions = file.actions(demo)
        lows.append(actions.min(axis=0))
        highs.append(actions.max(axis=0))
        if lows[-1].shape != lows[0].shape:
            raise DatasetError(
                f"The actions of {file.path} have {lows[0].size} entries in {file.demos[0]} and "
                f"{lows[-1].size} in {demo}."
            )
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _count_successes(file: DemonstrationFile) -> int | None:
    successes = 0
    for demo in file.demos:
        marked = file.attributes(demo).get("success")
        if marked is None:
            try:
                marked = (file.array(demo, "rewards")[:] > 0).any()
            except DatasetError:  # it has no rewards
                return None
        successes += bool(marked)
    return successes


def _count_tries(file: DemonstrationFile) -> int | None:
    recording = recording_of(file.env_args)
    if recording is None:
        return None
    return max(int(file.attributes(demo)["seed"]) for demo in file.demos) - int(recording["seed"]) + 1


def _observation(file: DemonstrationFile, key: str) -> ObservationInfo:
    first = file.array(file.demos[0], f"obs/{key}")
    for demo in file.demos:
        shape = file.array(demo, f"obs/{key}").shape[1:]
        if shape != first.shape[1:]:
            raise DatasetError(
                f"obs/{key} of {file.path} has the shape {first.shape[1:]} in {file.demos[0]} and {shape} in "
                f"{demo}."
            )
    return ObservationInfo(first.shape[1:], str(first.dtype))


def draw_contact_sheet(path: Path | str, output: Path | str, demonstrations: int = 6) -> None:
    """Draw frames of some demonstrations into one PNG: a row each, first, middle and last of each camera.

    Args:
        path: a file with pictures.
        output: the PNG.
        demonstrations: how many at most, spread evenly over the file.

    Raises:
        DatasetError: if the file cannot be used, or has no pictures.
    """
    with DemonstrationFile(path) as file:
        cameras = [key for key in file.obs_keys if file.array(file.demos[0], f"obs/{key}").dtype == np.uint8]
        if not cameras:
            raise DatasetError(f"{path} has no pictures to draw; add them with `fibo demos convert`.")
        count = min(demonstrations, len(file.demos))
        chosen = [file.demos[int(index)] for index in np.linspace(0, len(file.demos) - 1, count).round()]
        rows = [(_title(file, demo), [_moments(file, demo, camera) for camera in cameras]) for demo in chosen]
    width = sum(frame.width + _MARGIN for frames in rows[0][1] for frame in frames)
    height = max(frame.height for frames in rows[0][1] for frame in frames) + _MARGIN + _LINE
    sheet = Image.new("RGB", (width, _LINE + height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, shown) in enumerate(rows):
        left, top = 0, _LINE + row * height
        draw.text((2, top), title, fill="black")
        for camera, frames in zip(cameras, shown):
            if row == 0:
                draw.text((left + 2, 0), f"{camera}: first, middle, last", fill="black")
            for frame in frames:
                sheet.paste(frame, (left, top + _LINE))
                left += frame.width + _MARGIN
    with replace_atomically(output) as temporary:
        sheet.save(temporary, format="PNG")


def _title(file: DemonstrationFile, demo: str) -> str:
    seed = file.attributes(demo).get("seed")
    return f"{demo}, {file.length(demo)} steps" + ("" if seed is None else f", seed {seed}")


def _moments(file: DemonstrationFile, demo: str, camera: str) -> list[Image.Image]:
    pictures = file.array(demo, f"obs/{camera}")
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise DatasetError(
            f"obs/{camera} of {file.path} is no picture: one step's shape is {pictures.shape[1:]}."
        )
    moments = (0, (len(pictures) - 1) // 2, len(pictures) - 1)
    frames = [Image.fromarray(pictures[moment]) for moment in moments]
    factor = -(-_FRAME_WIDTH // frames[0].width)
    return [
        frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)
        for frame in frames
    ]
