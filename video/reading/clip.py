"""Opening a clip, whatever it is stored as."""

from pathlib import Path

from fibo_robot.video.reading.errors import VideoDecodeError, may_not_read
from fibo_robot.video.reading.excerpt import Excerpt, Span
from fibo_robot.video.reading.frames import DEFAULT_FRAME_RATE, FrameFolder
from fibo_robot.video.reading.interface import ClipReader
from fibo_robot.video.reading.reader import VideoReader


def open_clip(
    path: Path,
    verify: bool = True,
    frame_rate: float = DEFAULT_FRAME_RATE,
    span: Span | None = None,
) -> ClipReader:
    """Open a clip for reading: a video file, a video inside a tar file, or a folder of its frames.

    Args:
        path: as in :class:`fibo_robot.video.datasets.table.LabelledClip`.
        verify: decode all of it once, so that hidden damage is found.
        frame_rate: of a folder of pictures.
        span: the part of it that is the clip; None is all.

    Raises:
        VideoDecodeError: it cannot be read, or has no frame within the span.
    """
    try:
        reader: ClipReader = (
            FrameFolder(path, fps=frame_rate, verify=verify)
            if path.is_dir()
            else VideoReader(path, verify=verify)
        )
        return reader if span is None else Excerpt(reader, span)
    except OSError as error:
        raise may_not_read(path, error) or VideoDecodeError(f"{path}: cannot be read ({error}).") from error
