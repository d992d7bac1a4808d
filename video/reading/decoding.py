"""Decoding with FFmpeg so strictly that damage is an error, one thread at a time."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fibo_robot.video.reading.errors import VideoDecodeError, reason
from fibo_robot.video.reading.scan import VideoScan, scan_source
from fibo_robot.video.reading.stored import ClipInMemory, StoredClip


def upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """A picture `(H, W, 3)` turned as its file says; FFmpeg's rotation is in degrees, counter-clockwise."""
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def strict_stream(container: InputContainer, content: VideoScan) -> VideoStream:
    stream = container.streams[content.stream_index]
    assert isinstance(stream, VideoStream)  # the scan chose it as such
    stream.codec_context.thread_count = 1
    # By default FFmpeg hides damage by copying neighbouring blocks; here damage is an error.
    stream.codec_context.options = {"err_detect": "explode"}
    return stream


def decode(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    wanted: set[int] | None = None,
) -> Iterator[VideoFrame]:
    """Frames as shown; with `wanted` (times in ticks), of all others only those that pictures refer to."""
    context = stream.codec_context
    try:
        for packet in container.demux(stream):
            if wanted is not None:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise VideoDecodeError(
                        f"{path}: the frame at {frame.time or 0:.2f} s is damaged; fetch the file again."
                    )
                yield frame
    except FFmpegError as error:
        raise VideoDecodeError(
            f"{path}: decoding fails ({reason(error)}); the file is damaged, fetch it again."
        ) from error


def index_frames(source: StoredClip | ClipInMemory) -> tuple[int | None, ...]:
    """Decode all frames once, strictly: times in ticks (or None), as shown; of a file they are remembered."""
    return _index(source) if isinstance(source, ClipInMemory) else _remembered_index(source)


def _index(source: StoredClip | ClipInMemory) -> tuple[int | None, ...]:
    path, content = source.path, scan_source(source)
    with source.open() as container:
        stream = strict_stream(container, content)
        pts: list[int | None] = []
        try:
            for frame in decode(path, container, stream):
                pts.append(frame.pts)
        except VideoDecodeError as error:
            raise VideoDecodeError(f"{error} (after {len(pts)} good frames)") from error
    if not pts:
        raise VideoDecodeError(f"{path}: not one frame could be decoded; the file is damaged.")
    return tuple(pts)


_remembered_index = lru_cache(maxsize=1024)(_index)
