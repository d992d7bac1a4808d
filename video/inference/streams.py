"""Live sources: cameras and network streams, read beside the model and classified window by window.

A thread decodes into a bounded buffer. What comes from a camera or another source that cannot wait pushes
the oldest frames out of it; a stream that can wait (a file behind http) is held back instead.
"""

import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from fibo_robot.errors import FiboError
from fibo_robot.video.classifier import ClipClassifier
from fibo_robot.video.inference.windows import SlidingWindow, WindowScores, frame_times, score_pictures
from fibo_robot.video.reading.decoding import upright
from fibo_robot.video.reading.errors import reason
from fibo_robot.video.reading.frame_numbers import frames_on_screen

_CAMERA = re.compile(r"camera:(\d+)")
_STREAM = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt)://", re.IGNORECASE)
_CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_OPEN_SECONDS, _READ_SECONDS = 10.0, 10.0
_DEFAULT_FPS = 30.0  # where a stream does not tell its rate
_PICTURES_PER_STEP = 4  # kept for each step between two frames of a clip: a quarter step is the time's error


class StreamError(FiboError):
    """A camera or stream cannot be opened or read; the message says which and why."""


def is_stream(source: str) -> bool:
    """Whether an argument names a camera (`camera:0`) or a stream (`rtsp://…`, `http://…`)."""
    return bool(_CAMERA.fullmatch(source) or _STREAM.match(source))


@dataclass(frozen=True)
class TimedFrame:
    """A picture, uint8 `(H, W, 3)`, and the seconds since the first one."""

    seconds: float
    picture: np.ndarray


class FrameStream:
    """Frames of a camera, a stream or a file, in the order in which they arrive.

    Args:
        source: `camera:N`, an address, or the path of a file (which then plays the camera in tests).

    Attributes:
        fps: frames per second, as the source says.
        live: the source does not wait for its reader.

    Raises:
        StreamError: it cannot be opened or holds no video.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        camera = _CAMERA.fullmatch(source)
        options: dict[str, Any] = {"timeout": (_OPEN_SECONDS, _READ_SECONDS)}
        name = source
        if camera:
            options["format"] = _CAMERA_FORMATS.get(sys.platform, "v4l2")
            name = f"/dev/video{camera[1]}" if sys.platform == "linux" else camera[1]
        elif source.lower().startswith("rtsp"):
            options["options"] = {"rtsp_transport": "tcp"}  # UDP loses packets without a word
        try:
            self._container = av.open(name, **options)
        except (FFmpegError, OSError, ValueError) as error:
            raise StreamError(f"{source} cannot be opened ({reason(error)}). {_hint(source)}") from error
        stream = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise StreamError(f"{source} sends no video.")
        self._stream = stream
        self.fps = float(stream.average_rate or stream.guessed_rate or _DEFAULT_FPS)
        self.live = self._container.duration is None

    def __iter__(self) -> Iterator[TimedFrame]:
        """Yield frames until the source ends.

        Raises:
            StreamError: the source breaks off.
        """
        first: float | None = None
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                time = frame.time if frame.time is not None else number / self.fps
                first = time if first is None else first
                picture = frame.to_ndarray(format="rgb24")
                yield TimedFrame(time - first, upright(picture, frame.rotation))
        except (FFmpegError, OSError) as error:
            raise StreamError(f"{self.source} breaks off ({reason(error)}).") from error

    def close(self) -> None:
        """Give the camera or connection back."""
        self._container.close()


class FrameBuffer:
    """A bounded ring of frames between the thread that decodes and the model.

    Args:
        stream: where frames come from.
        capacity: most frames that are kept.
        spacing: seconds; of frames that follow each other faster, only some are kept.
        seconds: stop after this much of the stream; None goes on until it ends.
    """

    def __init__(
        self, stream: FrameStream, capacity: int, spacing: float, seconds: float | None = None
    ) -> None:
        self._stream, self._spacing, self._seconds = stream, spacing, seconds
        self._frames: deque[TimedFrame] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._needed_from = 0.0
        self._newest = 0.0
        self._ended = self._closed = False
        self._error: StreamError | None = None
        self._thread = threading.Thread(target=self._fill, name="stream", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._frames)

    def _fill(self) -> None:
        try:
            for frame in self._stream:
                if self._seconds is not None and frame.seconds >= self._seconds:
                    break
                with self._changed:
                    if self._closed:
                        break
                    self._newest = frame.seconds
                    last = self._frames[-1].seconds if self._frames else -np.inf
                    if frame.seconds - last < self._spacing - 1e-6:
                        self._changed.notify_all()
                        continue
                    while len(self._frames) >= self._capacity and not self._closed:
                        if self._stream.live or self._frames[0].seconds < self._needed_from:
                            self._frames.popleft()
                        else:
                            self._changed.wait()
                    self._frames.append(frame)
                    self._changed.notify_all()
        except StreamError as error:
            self._error = error
        finally:
            self._stream.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def wait_until(self, seconds: float) -> float:
        """Block until the stream has come this far or has ended; returns how far it has come.

        Raises:
            StreamError: the stream breaks off before.
        """
        with self._changed:
            while not self._ended and self._newest < seconds:
                self._changed.wait(timeout=0.1)  # so that Ctrl-C is heard
            if self._error is not None and self._newest < seconds:
                raise self._error
            return self._newest

    def at(self, times: np.ndarray) -> list[np.ndarray]:
        """The pictures on screen at these seconds, or the nearest kept ones, uint8 `(H, W, 3)`.

        A sender may change their size on the way.
        """
        with self._changed:
            frames = list(self._frames)
        shown = frames_on_screen(np.array([frame.seconds for frame in frames]), times)
        return [frames[number].picture for number in shown.tolist()]

    def release(self, seconds: float) -> None:
        """Say that nothing before this time will be asked for any more."""
        with self._changed:
            self._needed_from = seconds
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the thread and give the source back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=_READ_SECONDS + 1)


def classify_stream(
    classifier: ClipClassifier,
    source: str | Path,
    window: SlidingWindow,
    *,
    seconds: float | None = None,
    top_k: int = 5,
    crops: int = 1,
) -> Iterator[WindowScores]:
    """Classify a camera or stream, one result per full window; the last one ends with the stream.

    A model slower than a live source leaves windows out: the next result is about the newest full window.

    Args:
        classifier: from `load_classifier`.
        source: see :class:`FrameStream`.
        window: its length and stride.
        seconds: stop after this much of the stream.
        top_k, crops: see `classify_windows`.

    Raises:
        StreamError: the source cannot be opened, breaks off, or ends before the first window is full.
    """
    stream = FrameStream(str(source))
    times = frame_times(classifier.sampling, 0.0, window.length, stream.fps)
    frame = 1 / stream.fps
    steps = np.diff(times)
    spacing = float(steps.min()) / _PICTURES_PER_STEP if len(steps) else window.length / _PICTURES_PER_STEP
    # Times of frames jitter: half a frame apart still counts as the next frame.
    spacing = max(spacing, frame / 2)
    buffer = FrameBuffer(stream, 2 + int(np.ceil(window.length / spacing)), spacing, seconds)
    start = covered = 0.0
    try:
        while True:
            newest = buffer.wait_until(start + window.length - 1.25 * frame)
            if newest < start + window.length - 1.5 * frame:  # the stream has ended within the window
                break
            if stream.live:  # leave out what the buffer has lost
                start += window.step * max(0, int((newest + frame - start - window.length) / window.step))
            covered = start + window.length
            pictures = buffer.at(start + times)
            yield WindowScores(start, covered, score_pictures(classifier, pictures, top_k, crops))
            start += window.step
            buffer.release(start)
        end = newest + frame
        if covered and end - covered > 1.5 * frame:
            last = end - window.length  # the buffer holds a window up to the newest frame
            pictures = buffer.at(last + times)
            yield WindowScores(last, end, score_pictures(classifier, pictures, top_k, crops))
    finally:
        buffer.close()
    if not covered:
        raise StreamError(
            f"{source} ended after {end:.1f} s, before the first window of {window.length:g} s "
            "was full: give a shorter --window, or more --seconds."
        )


def _hint(source: str) -> str:
    if _CAMERA.fullmatch(source):
        return (
            "Is the camera plugged in, free, and readable by you (group video)? `ls /dev/video*` lists them."
        )
    return "Is the address right and the sender running?"
