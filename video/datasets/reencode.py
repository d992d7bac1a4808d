"""Re-encoding a data set for training: keyframes close together, and no more pixels than are used.

To read a frame, a decoder starts at the keyframe before it: with one every 16 frames instead of every 250, a
frame in the middle of a clip costs a few frames of decoding. Names and folders stay as they are, and so do
the lists of labels; what is written is H.264 in MP4, whatever a name ends with, for readers go by content.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from fibo_robot.errors import FiboError
from fibo_robot.files import replace_atomically, write_bytes, write_json
from fibo_robot.progress import track
from fibo_robot.video.datasets.files import VIDEO_SUFFIXES, walk
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.reader import VideoReader
from fibo_robot.x264 import REPEATABLE_X264

SETTINGS_FILE = "reencode.json"
_LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json"})
_TICKS_PER_SECOND = 90_000  # of MPEG's own clock; frame rates in use are whole numbers of its ticks


class ReencodeError(FiboError):
    """A data set cannot be re-encoded as asked; the message says why."""


@dataclass(frozen=True)
class Encoding:
    """How clips are written.

    Attributes:
        side: pixels of the shorter side; smaller clips keep their size.
        gop: frames from one keyframe to the next, at most.
        crf: x264's constant quality, 0 (lossless) to 51; 18 is taken for visually lossless.
    """

    side: int = 256
    gop: int = 16
    crf: int = 18

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a clip of this size, even as yuv420p wants them, never more than they were."""
        share = min(1.0, self.side / min(height, width))
        return tuple(max(2, round(length * share) // 2 * 2) for length in (height, width))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Reencoded:
    """What became of a data set.

    Attributes:
        clips: how many were written, now or before.
        failures: why a clip could not be, by its path.
        lists: how many lists were copied.
        left_behind: other files, which are neither videos nor lists.
        source_bytes, target_bytes: sizes of the clips before and after.
    """

    clips: int
    failures: dict[Path, str]
    lists: int
    left_behind: int
    source_bytes: int
    target_bytes: int


def reencode(source: Path, target: Path, encoding: Encoding, workers: int = 1) -> Reencoded:
    """Write a copy of a data set with clips that are quick to read; what is written already is kept.

    Sound is left out; every frame, its time and its rotation stay. Each clip is decoded once more
    before it takes its name. The source is only read.

    Args:
        source: a folder of videos and lists, in any layout that training reads.
        target: the folder to write; an earlier, interrupted run may have begun it.
        encoding: how clips are written.
        workers: clips at a time.

    Raises:
        ReencodeError: `source` is no folder or holds no videos, one folder lies in the other, or `target`
            holds something else.
    """
    _require_apart(source, target)
    videos, lists, others = _files(source)
    if not videos:
        raise ReencodeError(f"{source} holds no videos to encode; unpack tar files first.")
    _begin(target, encoding)
    for file in lists:
        write_bytes(target / file, (source / file).read_bytes())
    failures: dict[Path, str] = {}

    def encode(file: Path) -> tuple[Path, str]:
        if _is_newer(target / file, source / file):
            return file, ""
        try:
            encode_clip(source / file, target / file, encoding)
        except VideoDecodeError as error:
            return file, str(error)
        return file, ""

    # Threads are enough: decoder and encoder work outside Python's lock.
    with ThreadPoolExecutor(workers) as pool:
        try:
            for file, problem in track(pool.map(encode, videos), "encoding", total=len(videos)):
                if problem:
                    failures[source / file] = problem
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    written = [file for file in videos if source / file not in failures]
    return Reencoded(
        clips=len(written),
        failures=failures,
        lists=len(lists),
        left_behind=len(others),
        source_bytes=sum((source / file).stat().st_size for file in written),
        target_bytes=sum((target / file).stat().st_size for file in written),
    )


def encode_clip(source: Path, target: Path, encoding: Encoding) -> None:
    """Write one clip anew, whole or not at all.

    Raises:
        VideoDecodeError: the source cannot be read to its end, or the copy does not hold the same frames.
    """
    reader = VideoReader(source)
    with replace_atomically(target) as temporary:
        _write(reader, temporary, encoding)
        copy = VideoReader(temporary)
        late = np.abs(copy.timestamps - reader.timestamps).max() if len(copy) == len(reader) else np.inf
        if late > 1 / _TICKS_PER_SECOND:
            raise VideoDecodeError(
                f"{source}: its copy has {len(copy)} frames, not at the times of the clip's {len(reader)}; "
                "copy this clip as it is."
            )


def _write(reader: VideoReader, target: Path, encoding: Encoding) -> None:
    rate = Fraction(reader.fps).limit_denominator(1001)
    options = {"crf": str(encoding.crf), "g": str(encoding.gop), "preset": "medium", **REPEATABLE_X264}
    with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: VideoStream | None = None
        for time, picture in zip(reader.timestamps, reader):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = encoding.size(*picture.shape[:2])
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, _TICKS_PER_SECOND)
                stream.codec_context.thread_count = 1
            frame = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="AREA")
            frame.pts, frame.time_base = round(time * _TICKS_PER_SECOND), Fraction(1, _TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
        assert stream is not None  # a video that can be read has a frame
        container.mux(stream.encode())


def _require_apart(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise ReencodeError(f"{source} is no folder: give the folder that holds the videos and their lists.")
    inner, outer = target.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ReencodeError(
            f"{target} and {source} are the same folder or lie in one another: name a folder elsewhere."
        )


def _files(source: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Videos, lists and all others below a folder, relative to it."""
    videos: list[Path] = []
    lists: list[Path] = []
    others: list[Path] = []
    for place, _, names in walk(source):
        for name in names:
            if name == SETTINGS_FILE:  # of an earlier re-encoding; the copy has its own
                continue
            suffix = Path(name).suffix.lower()
            kind = videos if suffix in VIDEO_SUFFIXES else lists if suffix in _LIST_SUFFIXES else others
            kind.append((place / name).relative_to(source))
    return videos, lists, others


def _begin(target: Path, encoding: Encoding) -> None:
    """Note the settings in a new folder, or see that an earlier run's are the same.

    Raises:
        ReencodeError: the folder holds something else, or clips of other settings.
    """
    note = target / SETTINGS_FILE
    wanted = asdict(encoding)
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            raise ReencodeError(
                f"{target} was begun with other settings ({found}, not {wanted}): name another folder."
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ReencodeError(f"{target} holds something else: name a new or an empty folder.")
    else:
        write_json(note, wanted)


def _is_newer(target: Path, source: Path) -> bool:
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def still_in_source(listed: Sequence[Path], source: Path) -> int:
    """How many clips, as a copied list names them, are the source's own: it names them by whole paths."""
    return sum(path.resolve().is_relative_to(source.resolve()) for path in listed)
