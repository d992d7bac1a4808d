"""mp4 files of episodes: H.264 in yuv420p, which every browser plays.

Workers encode their own episodes into memory and send the bytes; the main process writes them. So the same
code serves one machine and many, and a full disk costs a video, never an episode.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically
from fibo_robot.interfaces import Task
from fibo_robot.x264 import REPEATABLE_X264

VIDEO_FOLDER = "videos"


class VideoWriteError(FiboError):
    """A video could not be written; the message says which and why."""


@dataclass(frozen=True)
class VideoSpec:
    """How an episode is filmed.

    Attributes:
        camera: name of the camera.
        size: pixels of a square frame's side; even, as yuv420p needs.
        every: control steps per frame.
        fps: frames per second; control frequency / `every` plays in real time.
    """

    camera: str
    size: int = 192
    every: int = 2
    fps: int = 10

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2:
            raise ValueError(f"a video's side must be an even number of at least 16 pixels, not {self.size}")

    @classmethod
    def in_real_time(cls, task: Task) -> "VideoSpec":
        """Through the task's first camera, at about ten frames a second."""
        every = max(1, round(task.control_freq / 10))
        return cls(task.cameras[0], every=every, fps=round(task.control_freq / every))


def encode_mp4(frames: Sequence[np.ndarray], fps: int) -> bytes:
    """Encode frames, uint8 `(H, W, 3)` of one even size, as an mp4 file's bytes; the same ones every time."""
    height, width, _ = frames[0].shape
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        options = {"crf": "23", "threads": "1", **REPEATABLE_X264}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_episode(seed: int, frames: Sequence[np.ndarray], fps: int) -> tuple[bytes | None, str | None]:
    """An episode's mp4, or why there is none: a lost video must not lose the episode."""
    try:
        return encode_mp4(frames, fps), None
    except (OSError, av.error.FFmpegError) as error:
        return None, f"The video of seed {seed} could not be encoded: {error}."


def write_video(target: Path, content: bytes) -> None:
    """Write an encoded video atomically.

    Raises:
        VideoWriteError: if the disk is full or the folder cannot be written; no partial file is left.
    """
    try:
        with replace_atomically(target) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise VideoWriteError(
            f"The video {target.name} could not be written: {error.strerror or error}."
        ) from error


def video_name(seed: int, success: bool, error: bool = False) -> str:
    """File name that says what is to be seen: `seed_000007_success.mp4`."""
    outcome = "error" if error else "success" if success else "failure"
    return f"seed_{seed:06d}_{outcome}.mp4"


def write_grid(videos: Sequence[Path], target: Path, columns: int | None = None) -> None:
    """Play several videos of equal frame size side by side; a shorter one stops at its last frame.

    Args:
        videos: in reading order, at least one.
        target: the mp4 to write.
        columns: default: the most square grid.

    Raises:
        VideoWriteError: if the grid cannot be written.
    """
    clips, fps = [], 10
    for path in videos:
        with av.open(str(path)) as container:
            fps = round(container.streams.video[0].average_rate or fps)
            clips.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    columns = columns or math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    height, width, _ = clips[0][0].shape
    frames = []
    for index in range(max(len(clip) for clip in clips)):
        canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
        for place, clip in enumerate(clips):
            top, left = place // columns * height, place % columns * width
            canvas[top : top + height, left : left + width] = clip[min(index, len(clip) - 1)]
        frames.append(canvas)
    write_video(target, encode_mp4(frames, fps))
