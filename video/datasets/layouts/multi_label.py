"""Multi-label data sets: any number of labels to a clip, in a table or in a list as mmaction2 has them.

They are read as such only where the user says so: the same line may be read in two ways.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fibo_robot.video.datasets.files import VIDEO_SUFFIXES
from fibo_robot.video.datasets.table import ClipTable, ClipTableError, LabelledClip, read_text
from fibo_robot.video.reading.errors import VideoDecodeError
from fibo_robot.video.reading.frames import FrameFolder

LABELS = "labels"  # a table's column
SEPARATOR = ";"  # between the labels in its cells
_COUNTED_FOLDERS = 20  # so many are enough to tell a number of frames from something else


def labels_in_cell(cell: str) -> tuple[str, ...]:
    """The labels of one clip, as a table's column has them: `run;jump`. An empty cell has none."""
    return _distinct(part.strip() for part in cell.split(SEPARATOR))


def read_multi_label_list(path: Path) -> ClipTable:
    """mmaction2's lists for its `multi_class` data: `video label label …`, `folder frames label label …`.

    Labels are numbers, as there. A clip may have none. What stands behind a folder of frames first is always
    their number, compared with the pictures of the folders that are there.

    Raises:
        ClipTableError: it is no such list, or fewer than half of its clips are there.
    """
    lines = {n: line.strip() for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()}
    found = (re.search(r"(\s|[,;])\s*\d+$", line) for line in lines.values())
    delimiters = {" " if match[1].isspace() else match[1] for match in found if match}
    if len(delimiters) != 1:
        seen = f"those found are {sorted(delimiters)}" if delimiters else "no line ends with a number"
        raise ClipTableError(
            f"{path} is no multi-label list: a line is a clip and the numbers of its labels, with one comma, "
            f"semicolon or space between ({seen}). For labels in words write a table with columns "
            f"path and {LABELS}, as a.mp4,run{SEPARATOR}jump."
        )
    (delimiter,) = delimiters
    rows = [_row(path, number, line, delimiter) for number, line in lines.items()]
    absent = [row for row in rows if not row.clip.path.exists()]
    if len(absent) > len(rows) / 2:
        raise ClipTableError(
            f"{len(absent)} of {len(rows)} clips in {path} are not there; the first would be "
            f"{absent[0].clip.path}. Paths are relative to the list."
        )
    _check_frame_counts(path, rows)
    counted = "folder, number of frames, labels" if any(row.frames is not None for row in rows) else "labels"
    description = f"{path} (multi-label, mmaction2's {counted}, delimiter {delimiter!r})"
    return ClipTable(tuple(row.clip for row in rows), description, multi_label=True)


@dataclass(frozen=True)
class _Row:
    """A line: its number, its clip, and the number of frames that it gives; None where the clip is a file."""

    line: int
    clip: LabelledClip
    frames: int | None


def _row(listed_in: Path, line: int, text: str, delimiter: str) -> _Row:
    between = r"\s+" if delimiter == " " else rf"\s*{delimiter}\s*"
    splits: list[tuple[str, list[str]]] = [(text.strip(), [])]
    # A name may itself end with a number; where it is there, it is known.
    while match := re.fullmatch(rf"(.*\S){between}(\d+)", splits[-1][0]):
        splits.append((match[1], [str(int(match[2])), *splits[-1][1]]))
    there = [(name, numbers) for name, numbers in splits if (listed_in.parent / name).exists()]
    if len(there) > 1:
        raise ClipTableError(
            f"{listed_in}, line {line}: both {there[0][0]} and {there[1][0]} are there, so it cannot be told "
            "where the labels begin; rename one of them."
        )
    name, numbers = there[0] if there else splits[-1]
    clip = listed_in.parent / name
    is_file = clip.is_file() or (not there and Path(name).suffix.lower() in VIDEO_SUFFIXES)
    if not there and not is_file and not numbers:
        raise ClipTableError(
            f"{listed_in}, line {line}: {name[:80]!r} is not there, and no number stands behind it. Labels "
            f"of such a list are numbers; for words write a table with columns path and {LABELS}."
        )
    if is_file:
        return _Row(line, LabelledClip(clip, _distinct(numbers)), None)
    if not numbers:
        raise ClipTableError(
            f"{listed_in}, line {line}: {name} is a folder of frames: their number stands behind it, then "
            "the labels."
        )
    return _Row(line, LabelledClip(clip, _distinct(numbers[1:])), int(numbers[0]))


def _check_frame_counts(path: Path, rows: Sequence[_Row]) -> None:
    """The first number behind a folder may be a label, or where a clip begins in it.

    Raises:
        ClipTableError: in most of the folders that were counted, it is not the number of pictures.
    """
    counted: list[tuple[_Row, int]] = []
    for row in rows:
        if row.frames is None or len(counted) == _COUNTED_FOLDERS or not row.clip.path.exists():
            continue
        try:
            counted.append((row, len(FrameFolder(row.clip.path, verify=False))))
        except VideoDecodeError:  # it is named when it is trained on
            continue
    wrong = [(row, pictures) for row, pictures in counted if row.frames != pictures]
    if len(wrong) > len(counted) / 2:
        row, pictures = wrong[0]
        raise ClipTableError(
            f"{path}, line {row.line}: {row.frames} stands where the number of frames does, but "
            f"{row.clip.path.name} holds {pictures} pictures; so in {len(wrong)} of {len(counted)} folders. "
            "A line is the folder, its number of frames, and the labels; lists with offsets are not read."
        )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))
