"""The public door to reading: `from fibo_robot.video.decode import VideoReader, VideoDecodeError`."""

from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.reader import VideoReader

__all__ = ["VideoDecodeError", "VideoReader"]
