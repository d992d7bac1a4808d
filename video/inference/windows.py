"""What happens when: a window slides over a long video, and equal neighbours become one segment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from fibo_robot.errors import FiboError
from fibo_robot.video.classifier import VideoClassifier
from fibo_robot.video.inference.predict import Score, best_scores, view_scores
from fibo_robot.video.training.clips import crop_and_resize, open_clip
from fibo_robot.video.training.sampling import ClipSampling


class TimelineError(FiboError, ValueError):
    """A window or stride that is not a length of time."""


@dataclass(frozen=True)
class SlidingWindow:
    """How a window moves.

    Attributes:
        length: seconds that are looked at together. Shorter than the clips of training, a window shows less
            than the classifier learned from.
        stride: seconds from one window to the next; None is the length.
    """

    length: float
    stride: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("window", self.length), ("stride", self.step)):
            if not value > 0:
                raise TimelineError(f"{name} must be more than 0 seconds, not {value:g}.")

    @property
    def step(self) -> float:
        """Seconds from one window to the next."""
        return self.length if self.stride is None else self.stride

    def starts(self, duration: float) -> list[float]:
        """Where windows begin in a video of this many seconds; the last one reaches its end, or just not."""
        count = 1 + max(0, int((duration - self.length) / self.step + 1e-6))
        return [number * self.step for number in range(count)]


@dataclass(frozen=True)
class WindowScores:
    """What is seen in one window: seconds from the beginning, and the most probable classes first."""

    start: float
    end: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Segment:
    """A stretch of time with one label; `probability` is the mean of its windows'."""

    start: float
    end: float
    label: str
    probability: float


def frame_times(sampling: ClipSampling, start: float, length: float, fps: float) -> np.ndarray:
    """Seconds `(T,)` at which the frames of the clip that tests a window are shown."""
    count = max(1, round(length * fps))
    return start + sampling.views(count)[0] / fps


def classify_windows(
    classifier: VideoClassifier,
    path: Path | str,
    window: SlidingWindow,
    *,
    top_k: int = 5,
    crops: int = 1,
) -> Iterator[WindowScores]:
    """Classify a video window by window; a video shorter than the window is one window.

    Args:
        classifier: from `load_classifier`.
        path: a video file.
        window: its length and stride.
        top_k: how many classes to name per window.
        crops: squares spread along the longer side; their probabilities are averaged.

    Raises:
        VideoDecodeError: the file cannot be read.
    """
    reader = open_clip(Path(path))
    duration = float(reader.timestamps[-1] + 1 / reader.fps)
    for start in window.starts(duration):
        length = min(window.length, duration - start)
        times = frame_times(classifier.sampling, start, length, reader.fps)
        # The frame on screen at a time; a hair is added because times of frames are rounded.
        numbers = np.searchsorted(reader.timestamps, times + 1e-6, side="right") - 1
        frames = reader.read(numbers.clip(0))
        yield WindowScores(start, start + length, score_frames(classifier, frames, top_k, crops))


def score_frames(
    classifier: VideoClassifier, frames: np.ndarray, top_k: int, crops: int = 1
) -> tuple[Score, ...]:
    """The most probable classes of one clip, uint8 `(T, H, W, 3)`."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    boxes = classifier.cropping.test(*pictures.shape[-2:], crops)
    size = classifier.encoder.image_size[0]
    clips = torch.stack([crop_and_resize(pictures, box, size) for box in boxes])
    return best_scores(classifier, view_scores(classifier, clips), top_k)


def merge_windows(windows: Sequence[WindowScores], stride: float) -> list[Segment]:
    """Segments without gap or overlap: a window speaks for `stride` seconds around its middle.

    The first and the last window also speak for what lies before and after. Windows that overlap vote
    nowhere twice.
    """
    if not windows:
        return []
    middles = [(window.start + window.end) / 2 for window in windows]
    ends = [min(middle + stride / 2, windows[-1].end) for middle in middles[:-1]] + [windows[-1].end]
    segments = []
    start = windows[0].start
    for label, group in groupby(range(len(windows)), key=lambda number: windows[number].scores[0].label):
        numbers = list(group)
        probability = sum(windows[number].scores[0].probability for number in numbers) / len(numbers)
        segments.append(Segment(start, ends[numbers[-1]], label, probability))
        start = ends[numbers[-1]]
    return segments
