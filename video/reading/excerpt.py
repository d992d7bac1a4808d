"""A stretch of a clip, in seconds, as a clip of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fibo_robot.video.reading.errors import FrameTimeError, VideoDecodeError
from fibo_robot.video.reading.frame_numbers import distinct_frames, frames_between
from fibo_robot.video.reading.interface import ClipReader


@dataclass(frozen=True)
class Span:
    """From `start` to before `stop`, in seconds from the first frame.

    Raises:
        FrameTimeError: `stop` does not lie after `start`, or `start` before the first frame.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise FrameTimeError(
                f"a clip from {self.start:g} to {self.stop:g} s: it must begin at 0 or later, and end after."
            )

    def __str__(self) -> str:
        return ",".join(f"{time:.6f}".rstrip("0").rstrip(".") for time in (self.start, self.stop))


class Excerpt(ClipReader):
    """The frames of a clip that appear within a span, numbered and timed from 0; it may outlast the clip.

    Args:
        reader: of the whole clip.
        span: seconds.

    Raises:
        VideoDecodeError: no frame appears within the span.
    """

    def __init__(self, reader: ClipReader, span: Span) -> None:
        numbers = frames_between(reader.timestamps, span.start, span.stop)
        if not len(numbers):
            raise VideoDecodeError(
                f"{reader.path}: no frame appears between {span.start:g} and {span.stop:g} s; the clip lasts "
                f"{reader.duration:.2f} s."
            )
        self.path, self.backend = reader.path, reader.backend
        self.timestamps = reader.timestamps[numbers] - reader.timestamps[numbers[0]]
        self.fps = (len(numbers) - 1) / self.timestamps[-1] if len(numbers) > 1 else reader.fps
        self._reader, self._first = reader, int(numbers[0])

    @property
    def codec(self) -> str:
        """The whole clip's."""
        return self._reader.codec

    def __len__(self) -> int:
        return len(self.timestamps)

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        distinct, inverse = distinct_frames(numbers, len(self), self.path)
        return self._reader.read((distinct + self._first)[inverse])

    def stream(self, numbers: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        distinct, _ = distinct_frames(numbers, len(self), self.path)
        return self._reader.stream(distinct + self._first)
