"""Pictures of many episodes in one mp4 per camera: AV1 or H.264, written and read by PyAV."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from fibo_robot.envs.errors import DatasetError
from fibo_robot.x264 import REPEATABLE_X264

Codec = Literal["av1", "h264"]
# As LeRobot encodes: every second picture is a key frame, so that any one is reached by decoding two.
_KEYFRAMES = "2"
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "av1": ("libsvtav1", {"g": _KEYFRAMES, "crf": "30", "preset": "12"}),
    "h264": ("libx264", {"g": _KEYFRAMES, "crf": "23", "bf": "0", **REPEATABLE_X264}),
}


class VideoWriter:
    """An mp4 that grows by one episode after the other; use it as a context manager.

    Args:
        path: the file to make.
        fps: pictures per second.
        codec: `av1` or `h264`.

    Attributes:
        frames: pictures so far.
        size: bytes so far; an encoder holds some pictures back.

    Raises:
        DatasetError: for another codec.
    """

    def __init__(self, path: Path, fps: int, codec: Codec) -> None:
        if codec not in get_args(Codec):
            raise DatasetError(f"Videos are written as {' or '.join(get_args(Codec))}, not {codec!r}.")
        self.frames, self.size, self._fps, self._codec = 0, 0, fps, codec
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        self._stream: VideoStream | None = None

    def append(self, pictures: np.ndarray) -> None:
        """Encode pictures, uint8 `(T, H, W, 3)` with even sides."""
        if self._stream is None:
            encoder, options = _ENCODERS[self._codec]
            stream = self._container.add_stream(encoder, rate=self._fps, options=options)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = pictures.shape[1:3]
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, self._fps)
            self._stream = stream
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, Fraction(1, self._fps)
            self._put(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._put(self._stream.encode())
        self._container.close()

    def _put(self, packets: list[av.Packet]) -> None:
        self.size += sum(packet.size for packet in packets)
        self._container.mux(packets)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class VideoFile:
    """An mp4 that stays open, for pictures from anywhere in it: opening takes longer than reading a few.

    Args:
        path: the file.

    Raises:
        DatasetError: it cannot be opened, or holds no video.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._container = av.open(str(path))
        except (FFmpegError, OSError) as error:
            raise DatasetError(f"{path} cannot be read: {error}.") from error
        if not self._container.streams.video:
            self.close()
            raise DatasetError(f"{path} cannot be read: it holds no video.")
        self._stream = self._container.streams.video[0]
        # With more threads, a decoder takes in several pictures before it gives one out.
        self._stream.codec_context.thread_count = 1
        self._converter = VideoReformatter()  # one for all pictures: it keeps its tables

    def read(self, start: float, fps: float, into: np.ndarray) -> None:
        """Fill `into`, uint8 `(N, H, W, 3)`, with pictures shown one after the other from `start` seconds on.

        Raises:
            DatasetError: they cannot be decoded, are of another size, or one of them is not there.
        """
        wanted = start + np.arange(len(into)) / fps
        found = 0
        try:
            for time, frame in self._frames(start, 0.5 / fps):
                if time < wanted[found] - 0.5 / fps:
                    continue
                if time > wanted[found] + 0.5 / fps:
                    break
                if (frame.height, frame.width, 3) != into.shape[1:]:
                    raise DatasetError(
                        f"{self._path} has pictures of {(frame.height, frame.width, 3)}, info.json says "
                        f"{into.shape[1:]}."
                    )
                into[found] = self._converter.reformat(frame, format="rgb24").to_ndarray()
                found += 1
                if found == len(into):
                    return
        except (FFmpegError, OSError) as error:
            raise DatasetError(f"{self._path} cannot be read: {error}.") from error
        raise DatasetError(
            f"{self._path} has no picture at {wanted[found]:.3f} seconds: it is cut off or damaged."
        )

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _frames(self, start: float, tolerance: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """Times and frames from the key frame before `start` on."""
        time_base = self._stream.time_base
        assert time_base is not None
        self._container.seek(max(0, int((start - tolerance) / time_base)), stream=self._stream)
        for frame in self._container.decode(self._stream):
            assert frame.pts is not None
            yield float(frame.pts * time_base), frame
