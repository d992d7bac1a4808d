"""Tables of clips with a header: a row per clip, and the annotation files of Kinetics."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from fibo_robot.errors import did_you_mean
from fibo_robot.video.datasets.files import clips_below
from fibo_robot.video.datasets.layouts.multi_label import LABELS, labels_in_cell
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    note_missing,
    read_text,
)
from fibo_robot.video.reading.excerpt import Span

KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


def read_table(table: Path, split_column: str, multi_label: bool) -> ClipTable:
    """A table with columns `path` and `label`, or `labels` where a clip has any number of them.

    Raises:
        ClipTableError: a column or a cell is missing, or there are no rows.
    """
    columns, rows, delimiter = _read_rows(table)
    labels_column, other = (LABELS, "label") if multi_label else ("label", LABELS)
    for needed in ("path", labels_column):
        if needed not in columns:
            hint = f" With data.multi_label=true a column {LABELS} is read (run;jump), else label."
            raise ClipTableError(
                f"{table} needs columns path and {labels_column}; it has {', '.join(columns) or 'none'}."
                f"{hint if other in columns else ''}"
            )
    if not rows:
        raise ClipTableError(f"{table} names no clips: it has a header, but no rows.")
    if split_column not in columns and split_column != "split":
        hint = did_you_mean(split_column, columns)
        raise ClipTableError(f"{table} has no column {split_column!r}. {hint}")
    clips = []
    for row in rows:
        path, cell = row.cells["path"], row.cells[labels_column]
        if not path or not (cell or multi_label):
            missing = "path" if multi_label else "path or the label"
            raise ClipTableError(f"{table}, line {row.line}: the {missing} is empty.")
        span = _span(row.cells, f"{table}, line {row.line}")
        labels = labels_in_cell(cell) if multi_label else (cell,)
        clips.append(LabelledClip(table.parent / path, labels, row.cells.get(split_column, ""), span))
    description = f"{table} (columns {', '.join(columns)}; delimiter {delimiter!r})"
    return ClipTable(tuple(clips), description, multi_label=multi_label)


def _span(cells: dict[str, str], place: str) -> Span | None:
    """The seconds from a row's `start` to its `stop`; None where there are no such columns or both are empty.

    Raises:
        ClipTableError: one of them is missing or empty, no number, or they are no span.
    """
    given = {column: cells[column] for column in ("start", "stop") if column in cells}
    if not any(given.values()):
        return None
    try:
        return Span(float(given["start"]), float(given["stop"]))
    except (KeyError, ValueError) as error:
        raise ClipTableError(
            f"{place}: a clip of a longer video has two columns, start and stop, in seconds; here they are "
            f"{given}. Leave both empty for the whole video."
        ) from error


def read_kinetics(tables: Sequence[Path], root: Path) -> ClipTable:
    """Kinetics' annotation files, one or one per split; the clips lie anywhere below `root`.

    Raises:
        ClipTableError: a row is damaged.
    """
    by_name = {path.stem: path for path in clips_below(root)}  # neither ids nor names of folders hold dots
    clips, delimiters, unlabelled = [], set(), []
    missing = 0
    for table in tables:
        columns, rows, delimiter = _read_rows(table)
        delimiters.add(repr(delimiter))
        if "label" not in columns:  # the test set was first published without labels
            unlabelled.append(table.name)
            continue
        for row in rows:
            cells = row.cells
            name, split = _kinetics_name(cells, f"{table}, line {row.line}"), cells.get("split") or table.stem
            path = by_name.get(name) or by_name.get(cells["youtube_id"])
            missing += path is None
            clips.append(LabelledClip(path or root / split / f"{name}.mp4", (cells["label"],), split))
    note = note_missing(clips, missing, root)
    if unlabelled:
        note += f"; {', '.join(unlabelled)} left out, without labels"
    names = ", ".join(table.name for table in tables)
    return ClipTable(tuple(clips), f"{root} (Kinetics, {names}; delimiter {', '.join(delimiters)}{note})")


def _kinetics_name(row: dict[str, str], place: str) -> str:
    """How the clip's file is named: the video's id, and the first and last second with six digits."""
    try:
        start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
    except (TypeError, ValueError) as error:
        raise ClipTableError(f"{place}: time_start and time_end must be numbers of seconds.") from error
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


@dataclass(frozen=True)
class _Row:
    """One row of a table: its line, counted from 1, and its cells, without spaces around them, by column."""

    line: int
    cells: dict[str, str]


def _read_rows(table: Path) -> tuple[list[str], list[_Row], str]:
    """The names of the columns, the rows, and the delimiter that was found.

    Raises:
        ClipTableError: a row has more or fewer cells than the header.
    """
    text = read_text(table)
    delimiter = max(",\t;", key=text.partition("\n")[0].count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
    columns: list[str] = []
    rows = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(columns):
                raise ClipTableError(
                    f"{table}, line {reader.line_num}: {len(cells)} cells, but the header has {len(columns)} "
                    f"({', '.join(columns)}); a cell that contains {delimiter!r} needs quotes around it."
                )
            rows.append(_Row(reader.line_num, dict(zip(columns, (cell.strip() for cell in cells)))))
    except csv.Error as error:
        raise ClipTableError(f"{table}, line {reader.line_num}: {error}.") from error
    return columns, rows, delimiter
