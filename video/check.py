"""Reading every clip of a data set once, so that training meets no surprise."""

import csv
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.progress import track

from fibo_robot.files import replace_atomically
from fibo_robot.video.decode import VideoDecodeError, VideoReader
from fibo_robot.video.probe import scan
from fibo_robot.video.sources import ClipTableError, read_clips, video_files

_SAVE_EVERY = 100  # clips between two writes of the table; an interruption loses at most these


@dataclass(frozen=True)
class CheckedClip:
    """One row of the table: what a clip holds, or why it cannot be read.

    Attributes:
        path: the file.
        size_bytes: its length; a file of another length is checked again.
        frames, fps, height, width: as they would be read; 0 where it cannot be.
        codec: FFmpeg's name; empty where unknown.
        reader: which library reads it, `decord` or `av`.
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


def find_clips(data: Path) -> tuple[list[Path], str]:
    """The clips of a table or of class folders, or else all videos below a folder; and what was found.

    Raises:
        ClipTableError: there are no clips.
    """
    try:
        table = read_clips(data)
    except ClipTableError:
        files = video_files(data) if data.is_dir() else []
        if not files:
            raise
        return files, f"{data} (video files)"
    return list(dict.fromkeys(clip.path for clip in table.clips)), table.description


def check_clip(path: Path) -> CheckedClip:
    """Decode one clip as a whole."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        reader = VideoReader(path)
        height, width = reader.read([0]).shape[1:3]
    except VideoDecodeError as error:
        return CheckedClip(str(path), size, problem=str(error))
    codec = scan(path).codec
    return CheckedClip(
        str(path), size, len(reader), round(reader.fps, 3), height, width, codec, reader.backend
    )


def check_clips(files: Sequence[Path], table: Path, workers: int = 1) -> list[CheckedClip]:
    """Check clips in threads, keeping the rows that `table` already has, and write them all to it.

    Returns:
        One row per file, in their order.
    """
    rows = {row.path: row for row in _read(table)} if table.exists() else {}
    known = {
        path
        for path, row in rows.items()
        if Path(path).is_file() and Path(path).stat().st_size == row.size_bytes
    }
    todo = [file for file in files if str(file) not in known]
    # Threads are enough: both decoders work outside Python's lock.
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(check_clip, todo)
        shown = track(results, "checking", total=len(todo), disable=not sys.stdout.isatty(), transient=True)
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


def _read(table: Path) -> list[CheckedClip]:
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != [field.name for field in fields(CheckedClip)]:
            raise ClipTableError(f"{table} exists and is no table of checked clips; choose another --output.")
        return [
            CheckedClip(**{field.name: field.type(row[field.name]) for field in fields(CheckedClip)})
            for row in reader
        ]


def _write(rows: dict[str, CheckedClip], table: Path) -> None:
    with replace_atomically(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(CheckedClip)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows.values())
