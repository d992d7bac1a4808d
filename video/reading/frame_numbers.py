"""Which frames of a file are meant by numbers and times: pure functions, no file is opened."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fibo_robot.video.reading.errors import FrameTimeError

# Times of frames are rounded to ticks, and a time is computed in another way than theirs: a hair is added.
_HAIR = 1e-6  # seconds


def distinct_frames(
    numbers: Sequence[int] | np.ndarray, num_frames: int, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The frames that a reader of `path` has to decode, ascending, and where each number stands among them.

    Raises:
        IndexError: there are none, or one is not in `0 … num_frames - 1`.
        TypeError: they are no whole numbers in a row.
    """
    wanted = np.asarray(numbers)
    if wanted.size == 0:
        raise IndexError("a clip is read by at least one frame number")
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise TypeError(
            f"frames are read by whole numbers in a row, as [30, 3, 3], not by {wanted.dtype} of shape "
            f"{wanted.shape}"
        )
    wanted = wanted.astype(np.int64)
    if wanted.min() < 0 or wanted.max() >= num_frames:
        raise IndexError(
            f"{path}: frames are numbered 0..{num_frames - 1}, got {wanted.min()}..{wanted.max()}"
        )
    distinct, inverse = np.unique(wanted, return_inverse=True)
    return distinct, inverse


def frames_on_screen(timestamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The number of the frame that is on screen at each of `times`; before the first frame, the first.

    Args:
        timestamps: `(N,)` seconds at which frames are shown, ascending.
        times: seconds.
    """
    return (np.searchsorted(timestamps, times + _HAIR, side="right") - 1).clip(0)


def frames_between(timestamps: np.ndarray, start: float, stop: float) -> np.ndarray:
    """The numbers of the frames that appear at `start` or later and before `stop`; there may be none.

    Args:
        timestamps: `(N,)` seconds at which frames are shown, ascending.
        start, stop: seconds.

    Raises:
        FrameTimeError: `stop` does not lie after `start`.
    """
    if not start < stop:
        raise FrameTimeError(f"frames between {start:g} and {stop:g} s: the second must lie after the first.")
    first, last = np.searchsorted(timestamps, np.array([start, stop]) - _HAIR)
    return np.arange(first, last)


def at_even_times(numbers: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Frame numbers counted on an even time grid, as frame numbers of a file with uneven times.

    Number i on the grid of `len(timestamps)` steps from the first to the last frame becomes the frame that
    is on screen at that time.

    Args:
        numbers: in `0 … len(timestamps) - 1`.
        timestamps: `(N,)` seconds, ascending.
    """
    if len(timestamps) == 1:
        return np.zeros_like(numbers)
    step = (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1)
    return frames_on_screen(timestamps, timestamps[0] + numbers * step)
