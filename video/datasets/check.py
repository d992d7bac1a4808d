"""Reading every clip of a data set once, so that training meets no surprise."""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from fibo_robot.files import replace_atomically
from fibo_robot.progress import track
from fibo_robot.video.datasets.files import clips_below
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTableError, NoClipsFoundError, UnreadableDataError
from fibo_robot.video.reading.clip import open_clip
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.frames import DEFAULT_FRAME_RATE, FrameFolder, folder_size
from fibo_robot.video.reading.stored import stored_clip

_PATHS = "surrogateescape"  # names of files need not be UTF-8; they are written as the system has them
_SAVE_EVERY = 100  # clips between two writes of the table; an interruption loses at most these


@dataclass(frozen=True)
class CheckedClip:
    """One row of the table: what a clip holds, or why it cannot be read.

    Attributes:
        path: the file, folder of frames, or file inside a tar file.
        size_bytes: its length; a clip of another length is checked again.
        frames, fps, height, width: as they would be read; 0 where it cannot be.
        codec: FFmpeg's name, or how pictures are coded; empty where unknown.
        reader: what reads it: `av`, or `pictures`.
        problem: why it cannot be read; empty where it can.
    """

    path: str
    size_bytes: int
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    reader: str = ""
    problem: str = ""


def find_clips(data: Path, protocol: str | None = None, multi_label: bool = False) -> tuple[list[Path], str]:
    """The clips of a data set, or else all clips below a folder; and what was found.

    Clips that lie in the folder but would not be trained on, for want of a label, are among them, and so are
    folders that may not be read: what is in them is not known.

    Args:
        data: see :func:`fibo_robot.video.datasets.recognise.read_clips`.
        protocol: which of its official splits.
        multi_label: each clip has any number of labels; see there.

    Raises:
        ClipTableError: there are no clips.
    """
    try:
        table = read_clips(data, protocol=protocol, multi_label=multi_label)
    except (NoClipsFoundError, UnreadableDataError):
        refused: list[Path] = []
        files = clips_below(data, refused) if data.is_dir() else []
        if not files:
            raise
        return files + refused, f"{data} (clips without labels)"
    return list(dict.fromkeys([*(clip.path for clip in table.clips), *table.left_out])), table.description


def outside_their_video(
    data: Path, protocol: str | None, rows: Sequence[CheckedClip], multi_label: bool = False
) -> list[str]:
    """A sentence for each clip, given in seconds, that begins behind the end of its video."""
    ends = {row.path: row.frames / row.fps for row in rows if row.fps}
    try:
        clips = read_clips(data, protocol=protocol, multi_label=multi_label).clips
    except (NoClipsFoundError, UnreadableDataError):
        return []
    return [
        f"{clip.name}: begins behind the end of its video, which lasts {ends[str(clip.path)]:.2f} s."
        for clip in clips
        if clip.span is not None and clip.span.start >= ends.get(str(clip.path), float("inf"))
    ]


def check_clip(path: Path, frame_rate: float = DEFAULT_FRAME_RATE) -> CheckedClip:
    """Decode one clip as a whole; `frame_rate` is that of folders of pictures."""
    size = 0
    try:
        size = _size(path)
        reader = open_clip(path, frame_rate=frame_rate)
        height, width = reader.read([0]).shape[1:3]
    except VideoDecodeError as error:
        return CheckedClip(str(path), size, problem=str(error))
    return CheckedClip(
        str(path), size, len(reader), round(reader.fps, 3), height, width, reader.codec, reader.backend
    )


def check_clips(
    files: Sequence[Path], table: Path, workers: int = 1, frame_rate: float = DEFAULT_FRAME_RATE
) -> list[CheckedClip]:
    """Check clips in threads, keeping what `table` already has of readable ones, and write all rows to it.

    Returns:
        One row per file, in their order.
    """
    rows = {row.path: row for row in _read(table)} if table.exists() else {}
    # What could not be read is tried again: it may have been mended without a change of its length. So is a
    # folder of pictures that was checked with another frame rate.
    readable = {
        path: row.size_bytes
        for path, row in rows.items()
        if not row.problem and (row.reader != FrameFolder.backend or row.fps == round(frame_rate, 3))
    }
    known = {path for path, size in readable.items() if size and _size(Path(path)) == size}
    todo = [file for file in files if str(file) not in known]
    # Threads are enough: both decoders work outside Python's lock.
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(partial(check_clip, frame_rate=frame_rate), todo)
        shown = track(results, "checking", total=len(todo))
        try:
            for number, row in enumerate(shown, start=1):
                rows[row.path] = row
                if number % _SAVE_EVERY == 0:
                    _write(rows, table)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            _write(rows, table)
    return [rows[str(file)] for file in files]


def _size(path: Path) -> int:
    """Bytes of a clip; 0 where there is none, or where it may not be read."""
    try:
        if path.is_dir():
            return folder_size(path)
        stored = stored_clip(path)
    except OSError:
        return 0
    return 0 if stored is None else stored.size


def _read(table: Path) -> list[CheckedClip]:
    with table.open(newline="", encoding="utf-8", errors=_PATHS) as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != [field.name for field in fields(CheckedClip)]:
            raise ClipTableError(f"{table} exists and is no table of checked clips; choose another --output.")
        try:
            return [_checked(row) for row in reader]
        except (TypeError, ValueError) as error:
            raise ClipTableError(
                f"{table} is damaged in line {reader.line_num} ({error}); delete it to check anew."
            ) from error


def _checked(row: dict[str, str]) -> CheckedClip:
    return CheckedClip(
        path=row["path"],
        size_bytes=int(row["size_bytes"]),
        frames=int(row["frames"]),
        fps=float(row["fps"]),
        height=int(row["height"]),
        width=int(row["width"]),
        codec=row["codec"],
        reader=row["reader"],
        problem=row["problem"],
    )


def _write(rows: dict[str, CheckedClip], table: Path) -> None:
    with (
        replace_atomically(table) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors=_PATHS) as stream,
    ):
        writer = csv.DictWriter(stream, [field.name for field in fields(CheckedClip)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows.values())
