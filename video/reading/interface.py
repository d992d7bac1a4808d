"""What every reader of a clip can do."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fibo_robot.video.reading.frame_numbers import at_even_times

if TYPE_CHECKING:
    from torch import Tensor


class ClipReader(Protocol):
    """Frames of one clip by number. Readers inherit from it, for what follows from the rest.

    Attributes:
        path: the clip.
        fps: average frames per second.
        timestamps: `(len,)` float64, seconds at which each frame is shown, from 0.
        backend: what reads it: `decord`, `av` or `pictures`.
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
        """Frames `(T, H, W, 3)`, uint8 RGB, in the order of `numbers` (repeats allowed).

        Raises:
            IndexError: a number is not in `0 … len - 1`.
            VideoDecodeError: a frame among those asked for is damaged.
        """
        ...

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
