"""Reading frames of a video file: the same frames, whichever library serves them.

:class:`VideoReader` decodes with PyAV, strictly, skips the pictures that nobody asked for and no other
picture needs, and keeps what turns pictures into RGB from frame to frame. decord and torchcodec stand in its
place where they are asked for (:mod:`fibo_robot.video.reading.libraries`). Frames are numbered in the order
in which they are shown, rotation flags are applied, and each reader decodes on one thread, so that data
workers do not compete for cores.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, get_args

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from fibo_robot.video.reading.decoding import decode, index_frames, strict_stream, upright
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.frame_numbers import distinct_frames
from fibo_robot.video.reading.interface import ClipReader
from fibo_robot.video.reading.libraries import (
    Backend,
    FrameLibrary,
    LibraryError,
    open_library,
    packets_are_frames,
)
from fibo_robot.video.reading.scan import VideoScan, scan_source
from fibo_robot.video.reading.stored import find_source

# Where a picture that is marked as no reference is needed by no other one (H.264: nal_ref_idc 0, ITU-T H.264
# section 7.4.1). In HEVC the mark means only pictures of the same temporal sub-layer.
_SKIPPABLE_CODECS = {"h264"}


class VideoReader(ClipReader):
    """Frames of one video file by number; see :class:`fibo_robot.video.reading.interface.ClipReader`.

    Args:
        video: the path of a local file, or of a video inside a tar file (`clips.tar/0001.mp4`); or the bytes
            of a video; or a file opened in binary mode, which is read into memory from where it stands.
            Content decides how it is read, not a name.
        verify: decode the whole file once, strictly, before the first read. Damage that a decoder
            would hide (smeared or grey areas) is then an error. It costs about as much as skimming the
            file; training turns it off and relies on `fibo data check`.
        backend: `decord` or `torchcodec` serves all reads, exact or not, as long as it does not fail. By
            default PyAV does (`av`), which is exact and the fastest.

    Attributes:
        fps: average frames per second of the shown frames.
        backend: what serves: `av`, or what was asked for and has not failed.

    Raises:
        VideoDecodeError: the file holds no readable video, or is damaged or cut off; or torchcodec, which was
            asked for, finds no FFmpeg; or there is no such backend.
        MissingExtraError: torchcodec was asked for and is not installed.
    """

    def __init__(
        self,
        video: Path | str | bytes | BinaryIO,
        *,
        verify: bool = True,
        backend: Backend = "av",
    ) -> None:
        if backend not in get_args(Backend):
            raise VideoDecodeError(f"There is no backend {backend!r}; it is {', '.join(get_args(Backend))}.")
        self._source = find_source(video)
        self.path = self._source.path
        self._scan = scan_source(self._source)
        self.backend: str = backend
        self._library: FrameLibrary | None = None
        self._pts: tuple[int | None, ...]
        if backend != "av":
            self._open_library()
        if verify or (self.backend == "av" and not packets_are_frames(self._scan)):
            self._pts = index_frames(self._source)
            if self._library is not None and len(self._library) != len(self._pts):
                self.backend, self._library = "av", None
        else:
            self._pts = tuple(sorted(pts for pts in self._scan.packet_pts if pts is not None))
        self.timestamps = _timestamps(self._pts, self._scan)
        span = self.timestamps[-1] - self.timestamps[0]
        self.fps = (len(self) - 1) / span if span > 0 else (self._scan.average_rate or 1.0)

    def _open_library(self) -> None:
        try:
            self._library = open_library(self.backend, self._source, self._scan)
        except LibraryError:
            self.backend = "av"
            return
        if len(self._library) != len(self._scan.packet_pts):
            self.backend, self._library = "av", None

    def __len__(self) -> int:
        return len(self._pts)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec, such as `h264`."""
        return self._scan.codec

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        distinct, inverse = distinct_frames(numbers, len(self), self.path)
        frames = self._read_by_library(distinct)
        if frames is None:
            frames = self._read_av(distinct)
        in_order = np.array_equal(inverse, np.arange(len(distinct)))
        return frames if in_order else frames[inverse]

    def _read_by_library(self, distinct: np.ndarray) -> np.ndarray | None:
        """Frames by decord or torchcodec; None where it does not serve this file."""
        if self._library is None:
            return None
        try:
            return self._library.frames(distinct.tolist())
        except LibraryError:
            # PyAV decides: it either reads the same frames or says where the damage is.
            self._index()
            self.backend, self._library = "av", None
            return None

    def stream(self, numbers: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        distinct, _ = distinct_frames(numbers, len(self), self.path)
        done = 0
        try:
            for picture in self._pictures(distinct, skip=self._scan.codec in _SKIPPABLE_CODECS):
                yield picture
                done += 1
            return
        except VideoDecodeError:
            self._index()  # says where the damage is, if there is any
        yield from self._pictures(distinct[done:], skip=False)

    def _read_av(self, distinct: np.ndarray) -> np.ndarray:
        pictures = self.stream(distinct)
        first = next(pictures)
        out = np.empty((len(distinct), *first.shape), dtype=np.uint8)
        out[0] = first
        for row, picture in enumerate(pictures, start=1):
            out[row] = picture
        return out

    def _index(self) -> None:
        """Decode the whole file, strictly, to know which frames there are."""
        pts = index_frames(self._source)
        if len(pts) != len(self):
            raise VideoDecodeError(
                f"{self.path}: {len(pts)} of {len(self)} frames decode; the file is damaged."
            )
        self._pts = pts

    def _pictures(self, distinct: np.ndarray, skip: bool) -> Iterator[np.ndarray]:
        height, width = self._scan.height, self._scan.width
        reformatter = VideoReformatter()  # one for all frames: it keeps its tables
        for frame in self._frames_at(distinct, skip):
            picture = reformatter.reformat(frame, width, height, format="rgb24", threads=1).to_ndarray()
            yield upright(picture, frame.rotation)

    def _frames_at(self, distinct: np.ndarray, skip: bool) -> Iterator[VideoFrame]:
        """Decode the frames with these ascending numbers, skipping to a keyframe where that is exact.

        Args:
            distinct: ascending.
            skip: leave out pictures between them that no other picture needs.
        """
        with self._source.open() as container:
            stream = strict_stream(container, self._scan)
            seekable = self._scan.seekable and None not in self._pts
            number_at = {pts: i for i, pts in enumerate(self._pts)} if seekable else {}
            wanted = {self._pts[i] for i in distinct.tolist()} if seekable and skip else None
            frames = decode(self.path, container, stream, wanted)
            # Some streams carry decoder settings in the first packet only, so it is decoded before any jump.
            frame = next(frames, None)
            number = number_at.get(frame.pts, -1) if seekable and frame is not None else 0
            for target in distinct.tolist():
                keyframe = self._keyframe_before(target) if seekable else None
                if keyframe is not None and number_at.get(keyframe, -1) > number + 1:
                    container.seek(keyframe, stream=stream, backward=True)
                    frames, number = decode(self.path, container, stream, wanted), -1
                while number < target:
                    frame = next(frames, None)
                    if frame is None:
                        break
                    number = number_at.get(frame.pts, -1) if seekable else number + 1
                if frame is None or number != target:
                    raise VideoDecodeError(f"{self.path}: frame {target} could not be decoded again.")
                yield frame

    def _keyframe_before(self, number: int) -> int | None:
        """Time, in ticks, of the last keyframe from which decoding reaches a frame; None: from the start."""
        pts = self._pts[number]
        place = 0 if pts is None else bisect_right(self._scan.start_pts, pts)
        return self._scan.start_pts[place - 1] if place else None


def _timestamps(pts: tuple[int | None, ...], content: VideoScan) -> np.ndarray:
    """Seconds from the first frame; where a container's times are unusable, an even grid at its rate."""
    ticks = [tick for tick in pts if tick is not None]
    if len(ticks) == len(pts):
        seconds = (np.asarray(ticks, dtype=np.float64) - ticks[0]) * content.time_base
        if len(pts) == 1 or np.diff(seconds).min() > 0:
            return seconds
    return np.arange(len(pts), dtype=np.float64) / (content.average_rate or 1.0)
