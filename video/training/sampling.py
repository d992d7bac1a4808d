"""Which frames and which part of the picture make a clip: pure functions of lengths and a generator.

Two ways to choose T frames of a video:

* `uniform`: T equal segments, one frame of each (TSN, arXiv 1608.00859). Sees the whole video.
* `dense`: T frames, `rate` frames apart, from somewhere in the video (written `T x rate`, as 8x32).

A video with fewer frames than asked for gives some of them more than once.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fibo_robot.errors import FiboError


class SamplingError(FiboError, ValueError):
    """A way to sample clips was described in numbers that do not fit; the message names the one."""


def square_side(image_size: int | Sequence[int]) -> int:
    """The side, in pixels, of the square frames that clips are cut into.

    Raises:
        SamplingError: height and width differ.
    """
    sides = {image_size} if isinstance(image_size, int) else set(image_size)
    if len(sides) != 1:
        raise SamplingError(
            f"Clips are cut into squares, so image_size must be one number of pixels, not {list(sides)}."
        )
    return int(sides.pop())


@dataclass(frozen=True)
class ClipSampling:
    """How to choose the frames of a clip.

    Attributes:
        kind: `uniform` or `dense`; see the module's text.
        frames: T, frames per clip.
        rate: for `dense`, distance between them in frames of the file.
    """

    kind: Literal["uniform", "dense"] = "uniform"
    frames: int = 8
    rate: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "dense"):
            raise SamplingError(f"sampling kind must be uniform or dense, not {self.kind!r}.")
        if min(self.frames, self.rate) < 1:
            raise SamplingError(f"frames and rate must be at least 1, not {self.frames} and {self.rate}.")

    def chosen(self, text: str) -> "ClipSampling":
        """The same number of frames chosen as `text` says: `uniform`, or `dense:RATE`.

        Raises:
            SamplingError: it says something else.
        """
        kind, _, rate = text.partition(":")
        if (kind, rate) != ("uniform", "") and not (kind == "dense" and rate.isdecimal()):
            raise SamplingError(f"Frames are chosen uniform or dense:RATE, as dense:4, not {text!r}.")
        return ClipSampling("dense", self.frames, int(rate)) if rate else ClipSampling("uniform", self.frames)

    def __str__(self) -> str:
        if self.kind == "uniform":
            return f"{self.frames} spread over the video"
        return f"{self.frames}, {self.rate} frames apart"

    def random(self, num_frames: int, generator: np.random.Generator) -> np.ndarray:
        """Frame numbers `(T,)` for training, ascending, all below `num_frames`."""
        if self.kind == "uniform":
            return self._uniform(num_frames, generator.random(self.frames))
        return self._dense(num_frames, int(generator.integers(self._latest_start(num_frames) + 1)))

    def views(self, num_frames: int, count: int = 1) -> list[np.ndarray]:
        """Frame numbers of `count` clips for testing, spread evenly; one view is the middle one."""
        if count < 1:
            raise SamplingError(f"the number of views must be at least 1, not {count}.")
        places = (np.arange(count) + 0.5) / count
        if self.kind == "uniform":
            return [self._uniform(num_frames, np.full(self.frames, place)) for place in places]
        if count > 1:
            places = np.arange(count) / (count - 1)
        return [self._dense(num_frames, round(place * self._latest_start(num_frames))) for place in places]

    def _uniform(self, num_frames: int, place_in_segment: np.ndarray) -> np.ndarray:
        positions = (np.arange(self.frames) + place_in_segment) * (num_frames / self.frames)
        return np.minimum(positions.astype(np.int64), num_frames - 1)

    def _latest_start(self, num_frames: int) -> int:
        """The last frame at which a dense clip may begin."""
        return max(num_frames - (self.frames - 1) * self.rate - 1, 0)

    def _dense(self, num_frames: int, start: int) -> np.ndarray:
        return np.minimum(start + np.arange(self.frames) * self.rate, num_frames - 1)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict: the constructor's arguments."""
        return asdict(self)


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Cropping:
    """Which part of the picture a clip shows; the same for all its frames.

    Attributes:
        train_area: smallest and largest share of the picture's area that a training crop covers.
        train_ratio: smallest and largest width / height of a training crop.
        test_side: side of the square test crop as a share of the picture's shorter side (224 / 256 = 0.875
            in most published recipes).
    """

    train_area: tuple[float, float] = (0.5, 1.0)
    train_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    test_side: float = 1.0

    def __post_init__(self) -> None:
        for name in ("train_area", "train_ratio"):  # configs give lists of their own kind
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not 0 < self.train_area[0] <= self.train_area[1] <= 1:
            raise SamplingError(f"train_area must rise within 0..1, not {self.train_area}.")
        if not 0 < self.train_ratio[0] <= self.train_ratio[1]:
            raise SamplingError(f"train_ratio must be two rising positive numbers, not {self.train_ratio}.")
        if not 0 < self.test_side <= 1:
            raise SamplingError(f"test_side must lie in 0..1, not {self.test_side}.")

    def random(self, height: int, width: int, generator: np.random.Generator) -> Box:
        """A random resized crop (Inception-style: area uniform, ratio log-uniform)."""
        for _ in range(10):
            area = height * width * generator.uniform(*self.train_area)
            ratio = np.exp(generator.uniform(*np.log(self.train_ratio)))
            box_height, box_width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < box_height <= height and 0 < box_width <= width:
                top = int(generator.integers(height - box_height + 1))
                left = int(generator.integers(width - box_width + 1))
                return Box(top, left, box_height, box_width)
        return self.test(height, width, 1)[0]

    def test(self, height: int, width: int, count: int = 1) -> list[Box]:
        """Square crops spread evenly along the longer side; one crop is the middle one."""
        side = max(1, round(min(height, width) * self.test_side))
        places: Sequence[float] = [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
        boxes = []
        for place in places:
            down, along = (place, 0.5) if height > width else (0.5, place)
            boxes.append(Box(round(down * (height - side)), round(along * (width - side)), side, side))
        return boxes

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict: the constructor's arguments."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
