"""What happens when: a window slides over a long video, and equal neighbours become one segment."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fibo_robot.errors import FiboError
from fibo_robot.video.classifier import ClipClassifier
from fibo_robot.video.inference.predict import Score, best_of_clips
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.frame_numbers import frames_on_screen
from fibo_robot.video.reading.interface import ClipReader
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
            if not (value > 0 and math.isfinite(value)):
                raise TimelineError(f"{name} must be more than 0 seconds, and not endless; {value:g} is not.")

    @property
    def step(self) -> float:
        """Seconds from one window to the next."""
        return self.length if self.stride is None else self.stride

    def spans(self, duration: float, tolerance: float = 1e-6) -> list[tuple[float, float]]:
        """Begin and end of each window in a video of this many seconds.

        The last window ends with the video, and is as long as the others: where the stride does not lead
        there, it begins earlier than the stride says. A video shorter than the window is one window.

        Args:
            duration: seconds.
            tolerance: seconds at the end that need not be seen.
        """
        if duration <= self.length:
            return [(0.0, duration)]
        count = 1 + int((duration - self.length) / self.step + 1e-6)
        spans = [(number * self.step, number * self.step + self.length) for number in range(count)]
        if duration - spans[-1][1] > tolerance:
            spans.append((duration - self.length, duration))
        return spans


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
    classifier: ClipClassifier,
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
    # Less than half a frame at the end is rounding, not a part that nobody has looked at.
    spans = window.spans(reader.duration, tolerance=0.5 / reader.fps)
    for (start, end), clips in zip(spans, window_clips(classifier, reader, spans, crops), strict=True):
        yield WindowScores(start, end, best_of_clips(classifier, clips, top_k))


def window_clips(
    classifier: ClipClassifier, reader: ClipReader, spans: Sequence[tuple[float, float]], crops: int = 1
) -> Iterator[Tensor]:
    """The clips by which windows are tested, uint8 `(crops, T, 3, S, S)` for each span.

    The file is read once from its beginning to its end, whatever container it is: windows share frames, and
    some containers cannot be entered in the middle. Frames are kept, cut and scaled, while windows need them.

    Args:
        classifier: says which frames, which squares and how large.
        reader: of the video.
        spans: begin and end of the windows in seconds, none beginning or ending before the one before it.
        crops: squares of each.
    """
    plans = [
        frames_on_screen(
            reader.timestamps, frame_times(classifier.sampling, start, end - start, reader.fps)
        ).tolist()
        for start, end in spans
    ]
    wanted = np.unique(np.concatenate(plans))
    pictures = zip(wanted.tolist(), reader.stream(wanted), strict=True)
    cut: dict[int, Tensor] = {}
    for plan, following in zip(plans, [*plans[1:], None], strict=True):
        while plan[-1] not in cut:
            number, picture = next(pictures)
            cut[number] = classifier.squares(picture, crops)
        yield torch.stack([cut[number] for number in plan], dim=1)
        if following is not None:
            cut = {number: squares for number, squares in cut.items() if number >= following[0]}


def score_pictures(
    classifier: ClipClassifier, pictures: Iterable[np.ndarray], top_k: int, crops: int = 1
) -> tuple[Score, ...]:
    """The most probable classes of one clip, given as pictures, uint8 `(H, W, 3)`, of any sizes."""
    cut = [classifier.squares(picture, crops) for picture in pictures]
    return best_of_clips(classifier, torch.stack(cut, dim=1), top_k)


def turning_points(windows: Sequence[WindowScores]) -> np.ndarray:
    """Seconds `(len - 1,)` at which the next window begins to speak: halfway between two middles."""
    middles = np.array([(window.start + window.end) / 2 for window in windows])
    return (middles[:-1] + middles[1:]) / 2


def merge_windows(windows: Sequence[WindowScores]) -> list[Segment]:
    """Segments without gap or overlap: each moment has the label of the window whose middle is nearest.

    The first and the last window also speak for what lies before and after. Windows that overlap vote
    nowhere twice.
    """
    if not windows:
        return []
    ends = [*turning_points(windows).tolist(), windows[-1].end]
    segments = []
    start = windows[0].start
    for label, group in groupby(range(len(windows)), key=lambda number: windows[number].scores[0].label):
        numbers = list(group)
        probability = sum(windows[number].scores[0].probability for number in numbers) / len(numbers)
        segments.append(Segment(start, ends[numbers[-1]], label, probability))
        start = ends[numbers[-1]]
    return segments
