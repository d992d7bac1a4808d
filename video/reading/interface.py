"""What every reader of a clip can do."""

import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fibo_robot.video.reading.frame_numbers import at_even_times, frames_between

if TYPE_CHECKING:
    from torch import Tensor


class ClipReader(Protocol):
    """Frames of one clip by number. Readers inherit from it, for what follows from the rest.

    `reader[i]` is one frame `(H, W, 3)`, `reader[-1]` the last one, `reader[10:50:5]` frames `(T, H, W, 3)`,
    and `for frame in reader` goes through all, one in memory at a time; all are uint8 RGB.

    Attributes:
        path: the clip.
        fps: average frames per second.
        timestamps: `(len,)` float64, seconds at which each frame is shown, from 0.
        backend: what reads it: `decord`, `torchcodec`, `av` or `pictures`.
    """

    path: Path
    fps: float
    timestamps: np.ndarray
    backend: str

    @property
    def codec(self) -> str:
        """How the frames are coded, such as `h264` or `png`."""
        ...

    def __len__(self) -> int:
        """How many frames there are."""
        ...

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames `(T, H, W, 3)`, uint8 RGB, in the order of `numbers` (repeats allowed, negative ones not).

        Raises:
            IndexError: a number is not in `0 … len - 1`.
            TypeError: they are no whole numbers in a row.
            VideoDecodeError: a frame among those asked for is damaged.
        """
        ...

    def __getitem__(self, key: int | slice) -> np.ndarray:
        """One frame, or those of a slice (perhaps none), numbered as in a list.

        Raises:
            IndexError: there is no such frame.
            TypeError: the key is neither a whole number nor a slice.
            VideoDecodeError: a frame among those asked for is damaged.
        """
        if isinstance(key, slice):
            return self._frames(np.arange(len(self))[key])
        try:
            number = operator.index(key)
        except TypeError:
            raise TypeError(
                f"a clip is indexed by a whole number or a slice, not by {type(key).__name__}; "
                "read(numbers) takes several"
            ) from None
        return self.read([number + len(self) if -len(self) <= number < 0 else number])[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every frame `(H, W, 3)`, one by one, in one pass."""
        return self.stream(range(len(self)))

    def frames_between(self, start_seconds: float, stop_seconds: float) -> np.ndarray:
        """Frames `(T, H, W, 3)` that appear at `start_seconds` or later and before `stop_seconds`.

        Times count from the first frame; there may be no frame.

        Raises:
            FrameTimeError: `stop_seconds` does not lie after `start_seconds`.
            VideoDecodeError: a frame among those asked for is damaged.
        """
        return self._frames(frames_between(self.timestamps, start_seconds, stop_seconds))

    def _frames(self, numbers: np.ndarray) -> np.ndarray:
        return self.read(numbers) if len(numbers) else self.read([0])[:0]

    def stream(self, numbers: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        """The same frames one by one, `(H, W, 3)`: ascending, each once, in one pass through the file.

        For long clips: whatever the container, no part of it is decoded twice, and one frame is in memory.
        """
        ...

    @property
    def variable_rate(self) -> bool:
        """Whether frames are shown at uneven times: some frame is off the even grid by over half a step."""
        even = np.arange(len(self)) / self.fps
        return bool(np.abs(self.timestamps - even).max() > 0.5 / self.fps)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float(self.timestamps[-1] + 1 / self.fps)

    def at_even_times(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers that are counted at an even rate, as frame numbers of this clip; see `frame_numbers`."""
        return at_even_times(numbers, self.timestamps) if self.variable_rate else numbers

    def clip(self, numbers: np.ndarray) -> "Tensor":
        """Frames as models take them, `(T, 3, H, W)`, uint8; `numbers` are counted at an even rate."""
        import torch  # here, so that checking a data set does not wait for it

        return torch.from_numpy(self.read(self.at_even_times(numbers))).permute(0, 3, 1, 2)
