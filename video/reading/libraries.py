"""Libraries that decode in the place of PyAV where they are asked for, and for which files they are exact.

PyAV, which reads everything, is in :mod:`fibo_robot.video.reading.decoding`: only it is asked strictly, and
neither makes the reader faster, however frames are asked for (`fibo bench decoding`).
"""

import importlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np

from fibo_robot.extras import require
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.scan import VideoScan
from fibo_robot.video.reading.stored import ClipInMemory, StoredClip

_PIXEL_FORMATS = {
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuv444p",
    "yuvj422p",
    "yuvj444p",
}  # others scale in other ways
_COUNTING_CONTAINERS = {"mp4", "matroska"}
# In these containers, a packet of theirs is a frame that is shown.
_COUNTED_CODECS = {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9"}
_DECORD_MIN_SIDE = 64  # below, decord's rows are padded and its copy fails


Backend = Literal["av", "decord", "torchcodec"]


class LibraryError(Exception):
    """A library does not decode what it was asked for; PyAV then says why, or does."""


class FrameLibrary(Protocol):
    """One file, opened by a library."""

    def __len__(self) -> int:
        """How many frames the library finds."""
        ...

    def frames(self, numbers: list[int]) -> np.ndarray:
        """Frames `(T, H, W, 3)`, uint8 RGB, of ascending numbers.

        Raises:
            LibraryError: it fails.
        """
        ...


def packets_are_frames(content: VideoScan) -> bool:
    """Whether the container alone tells which frames there are, and when: none needs to be decoded."""
    is_told = bool(content.containers & _COUNTING_CONTAINERS) and content.codec in _COUNTED_CODECS
    return is_told and _times_refusal(content) is None


def decord_refusal(content: VideoScan) -> str | None:
    """Why decord would not return exactly the frames that were asked for, or None where it does."""
    if not content.containers & _COUNTING_CONTAINERS:
        return f"container {'/'.join(sorted(content.containers))}"
    if content.codec not in _COUNTED_CODECS:
        return f"codec {content.codec}"
    if content.pixel_format not in _PIXEL_FORMATS:
        return f"pixel format {content.pixel_format}"
    if min(content.width, content.height) < _DECORD_MIN_SIDE:
        return f"size {content.width}x{content.height}"
    return _times_refusal(content)


def torchcodec_refusal(content: VideoScan) -> str | None:
    """Why torchcodec would not return exactly the frames that were asked for, or None where it does."""
    if content.pixel_format not in _PIXEL_FORMATS:
        return f"pixel format {content.pixel_format}"
    refusal = _times_refusal(content)
    if refusal is None and not content.seekable:
        return f"container {'/'.join(sorted(content.containers))}"
    return refusal


def _times_refusal(content: VideoScan) -> str | None:
    """Why a library that seeks by time to any keyframe would end at another frame, or None."""
    if content.has_gaps:
        return "missing, repeated or discarded timestamps"
    if content.unsafe_keyframes:
        return "keyframes that need earlier frames"
    return None


def _read_settings(library: FrameLibrary, content: VideoScan) -> None:
    """Have a library decode the first frame before it seeks.

    Old x264 notes its version in the first packet, and FFmpeg decodes its 4:4:4 pictures wrongly without it.
    """
    if content.codec == "h264":
        library.frames([0])


class DecordFrames:
    """A file opened by decord.

    Raises:
        LibraryError: decord does not open it.
    """

    def __init__(self, source: StoredClip | ClipInMemory, content: VideoScan) -> None:
        import decord

        uri = BytesIO(source.content) if isinstance(source, ClipInMemory) else source.url
        try:
            self._reader: Any = decord.VideoReader(uri, num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise LibraryError(str(error)) from error
        _read_settings(self, content)

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, numbers: list[int]) -> np.ndarray:
        import decord

        try:
            return self._reader.get_batch(numbers).asnumpy()
        except decord.DECORDError as error:
            raise LibraryError(str(error)) from error


class TorchcodecFrames:
    """A file opened by torchcodec.

    Raises:
        LibraryError: torchcodec does not open it.
        MissingExtraError: torchcodec is not installed.
        VideoDecodeError: it is, but finds no FFmpeg.
    """

    def __init__(self, source: StoredClip | ClipInMemory, content: VideoScan) -> None:
        decoders = _torchcodec_decoders()
        try:
            self._decoder: Any = decoders.VideoDecoder(
                source.content if isinstance(source, ClipInMemory) else source.url,
                stream_index=content.stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",
            )
        except (RuntimeError, ValueError) as error:
            raise LibraryError(str(error)) from error
        _read_settings(self, content)

    def __len__(self) -> int:
        return len(self._decoder)

    def frames(self, numbers: list[int]) -> np.ndarray:
        try:
            return self._decoder.get_frames_at(numbers).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise LibraryError(str(error)) from error


@cache
def _torchcodec_decoders() -> ModuleType:
    torchcodec = require("torchcodec", extra="torchcodec", purpose="The backend torchcodec")
    if torchcodec.ffmpeg_major_version is None:
        raise VideoDecodeError(
            "torchcodec finds no FFmpeg: install its shared libraries (Debian: apt-get install ffmpeg), or "
            "read with another backend."
        )
    return importlib.import_module("torchcodec.decoders")


_LIBRARIES: dict[str, Callable[[StoredClip | ClipInMemory, VideoScan], FrameLibrary]] = {
    "decord": DecordFrames,
    "torchcodec": TorchcodecFrames,
}


def open_library(name: str, source: StoredClip | ClipInMemory, content: VideoScan) -> FrameLibrary:
    """Open a file with decord or torchcodec.

    Raises:
        LibraryError: it does not open it.
        MissingExtraError, VideoDecodeError: torchcodec, or the FFmpeg it needs, is not installed.
    """
    return _LIBRARIES[name](source, content)
