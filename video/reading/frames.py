"""Clips that are stored as a folder of numbered pictures: `00001.jpg`, `img_00001.jpg`, `frame_0.png` …"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from fibo_robot.video.reading.errors import VideoDecodeError, may_not_read
from fibo_robot.video.reading.frame_numbers import distinct_frames
from fibo_robot.video.reading.interface import ClipReader
from fibo_robot.video.reading.pictures import upright_rgb

DEFAULT_FRAME_RATE = 30.0  # pictures do not tell their rate
_FRAME = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\.(jpe?g|png)", re.IGNORECASE)
_FLOW = re.compile(r"flow|[xy]_", re.IGNORECASE)  # optical flow that lies beside the pictures


def is_frame(name: str) -> bool:
    """Whether a file is named like one picture of a clip."""
    return _FRAME.fullmatch(name) is not None


class FrameFolder(ClipReader):
    """Frames of a clip by number; see :class:`fibo_robot.video.reading.interface.ClipReader`.

    Args:
        path: a folder of pictures whose names differ in their number alone.
        fps: frames per second at which the pictures were taken.
        verify: decode every picture once before the first read.

    Attributes:
        fps: as given.
        backend: `pictures`.

    Raises:
        VideoDecodeError: there are no pictures, some are missing, damaged or of another size.
    """

    backend = "pictures"

    def __init__(self, path: Path | str, *, fps: float = DEFAULT_FRAME_RATE, verify: bool = True) -> None:
        self.path = Path(path)
        self.fps = float(fps)
        self._files = _frame_files(self.path, self.path.stat().st_mtime_ns)
        self._size: tuple[int, int] | None = None
        self._size = self._open(self._files[0]).size
        self.timestamps = np.arange(len(self), dtype=np.float64) / self.fps
        if verify:
            for file in self._files:
                self._open(file)

    @property
    def codec(self) -> str:
        """How the pictures are coded, by their suffix: `jpg` or `png`."""
        return self._files[0].suffix[1:].lower()

    def __len__(self) -> int:
        return len(self._files)

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        distinct, inverse = distinct_frames(numbers, len(self), self.path)
        return np.stack(list(self.stream(distinct)))[inverse]

    def stream(self, numbers: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        distinct, _ = distinct_frames(numbers, len(self), self.path)
        for number in distinct.tolist():
            yield np.array(self._open(self._files[number]))

    def _open(self, file: Path) -> Image.Image:
        try:
            with Image.open(file) as picture:
                decoded = upright_rgb(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # Pillow raises SyntaxError for a broken PNG.
            raise may_not_read(file, error) or VideoDecodeError(
                f"{file}: the picture cannot be read; extract the frames again."
            ) from error
        if self._size is not None and decoded.size != self._size:
            raise VideoDecodeError(
                f"{file}: {decoded.width}x{decoded.height} pixels, but the clip's first frame has "
                f"{self._size[0]}x{self._size[1]}; extract the frames again."
            )
        return decoded


def folder_size(folder: Path) -> int:
    """Bytes of all pictures of a clip; 0 where there are none."""
    return sum(file.stat().st_size for file in folder.iterdir() if is_frame(file.name))


@lru_cache(maxsize=4096)
def _frame_files(folder: Path, modified_ns: int) -> tuple[Path, ...]:
    """Pictures in the order of their numbers. `modified_ns` keys the memory."""
    numbered: dict[str, dict[int, Path]] = {}
    for file in folder.iterdir():
        match = _FRAME.fullmatch(file.name)
        if match and not _FLOW.match(match["prefix"]):
            frames = numbered.setdefault(match["prefix"], {})
            other = frames.setdefault(int(match["number"]), file)
            if other != file:
                first, second = sorted((other.name, file.name))
                raise VideoDecodeError(
                    f"{folder}: {first} and {second} are both frame {int(match['number'])}; keep one of them."
                )
    if not numbered:
        raise VideoDecodeError(f"{folder}: the folder holds no pictures named by number, such as 00001.jpg.")
    if len(numbered) > 1:
        kinds = ", ".join(f"{prefix}*" for prefix in sorted(numbered))
        raise VideoDecodeError(
            f"{folder}: pictures of several kinds ({kinds}); keep those of the video only."
        )
    (frames,) = numbered.values()
    numbers = sorted(frames)
    steps = np.diff(numbers)
    if len(steps) and steps.max() > steps.min():
        gap = int(np.argmax(steps > steps.min()))
        raise VideoDecodeError(
            f"{folder}: frame {numbers[gap] + steps.min()} is missing after {frames[numbers[gap]].name}; "
            "extract the frames again."
        )
    return tuple(frames[number] for number in numbers)
