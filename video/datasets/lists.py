"""Lists of clips: tables with a header, lists without one, and the annotation files of Kinetics."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from fibo_robot.errors import did_you_mean
from fibo_robot.video.datasets.files import VIDEO_SUFFIXES, clips_below, subfolders
from fibo_robot.video.datasets.multi_label import LABELS, labels_in_cell, read_multi_label_list
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    canonical_split,
    note_missing,
    read_text,
    refuse_protocol,
)
from fibo_robot.video.reading.excerpt import Span

_DELIMITERS = (",", "\t", ";", " ")
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


def read_table_in(
    root: Path, protocol: str | None, split_column: str, multi_label: bool = False
) -> ClipTable | None:
    """The table `clips.csv` of a folder, or None where there is none."""
    table = root / "clips.csv"
    if not table.is_file():
        return None
    refuse_protocol(protocol, str(table))
    return _read_table(table, split_column, multi_label)


def read_list_file(
    path: Path, protocol: str | None, split_column: str, multi_label: bool = False
) -> ClipTable:
    """A table with a header, a Kinetics annotation file, or a list of paths and labels.

    Args:
        path: the file.
        protocol: refused: none of these has several.
        split_column: column of a table that tells the split.
        multi_label: a clip has any number of labels: a table with a column `labels`, or mmaction2's lists.

    Raises:
        ClipTableError: it is none of these; the message says what is missing.
    """
    refuse_protocol(protocol, str(path))
    columns = _columns(path)
    if columns >= _KINETICS_COLUMNS and not multi_label:
        return _read_kinetics([path], path.parent)
    if "path" in columns and columns & {"label", LABELS}:
        return _read_table(path, split_column, multi_label)
    return read_multi_label_list(path) if multi_label else _read_list(path)


def read_split_lists(root: Path, protocol: str | None, multi_label: bool = False) -> ClipTable | None:
    """One list per split in a folder or its folder `annotations`: `train.csv`, `val.csv`, `k400_test.txt` ….

    They are Kinetics annotation files (columns label, youtube_id, time_start, time_end, split, as published
    at https://github.com/cvdfoundation/kinetics-dataset; clips `ID_000010_000020.mp4` anywhere below the
    folder), or lists of paths and labels, or of paths and any number of labels. None where there are no such
    files.
    """
    places = [root, *(folder for folder in subfolders(root) if folder.name == "annotations")]
    lists = next((found for place in places if (found := _split_lists(place))), None)
    if not lists:
        return None
    refuse_protocol(protocol, str(root))
    if not multi_label and all(_columns(path) >= _KINETICS_COLUMNS for path in lists.values()):
        return _read_kinetics(list(lists.values()), root)
    clips: list[LabelledClip] = []
    described = []
    for split, path in lists.items():
        table = read_list_file(path, None, "split", multi_label)
        clips += [replace(clip, split=clip.split or split) for clip in table.clips]
        described.append(table.description.removeprefix(f"{path.parent}/"))
    description = f"{root} (a list per split: {'; '.join(described)})"
    return ClipTable(tuple(clips), description, multi_label=multi_label)


def _split_lists(folder: Path) -> dict[str, Path]:
    """Lists named after a split, such as `train.csv` or `kinetics-400_val.txt`, by the name of the split."""
    named: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = re.split(r"[-_]", path.stem)[-1].lower()
        if path.suffix.lower() in (".csv", ".txt") and canonical_split(name) and path.is_file():
            other = next((n for n in named if canonical_split(n) == canonical_split(name)), None)
            if other is not None:
                raise ClipTableError(
                    f"{folder} holds two lists for {name}: {named[other].name}, {path.name}."
                )
            named[name] = path
    return named


def _columns(path: Path) -> set[str]:
    """The names of the columns, if the first line is a header; else the fields of the first clip."""
    header = read_text(path).partition("\n")[0]
    return {field.strip().strip('"').lower() for field in re.split(r"[,\t;]", header)}


@dataclass(frozen=True)
class _Row:
    """One row of a table: its line, counted from 1, and its cells by the names of the columns."""

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
            rows.append(_Row(reader.line_num, dict(zip(columns, cells))))
    except csv.Error as error:
        raise ClipTableError(f"{table}, line {reader.line_num}: {error}.") from error
    return columns, rows, delimiter


def _read_table(table: Path, split_column: str, multi_label: bool) -> ClipTable:
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
    given = {column: cells[column].strip() for column in ("start", "stop") if column in cells}
    if not any(given.values()):
        return None
    try:
        return Span(float(given["start"]), float(given["stop"]))
    except (KeyError, ValueError) as error:
        raise ClipTableError(
            f"{place}: a clip of a longer video has two columns, start and stop, in seconds; here they are "
            f"{given}. Leave both empty for the whole video."
        ) from error


def _read_kinetics(tables: Sequence[Path], root: Path) -> ClipTable:
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


def _read_list(path: Path) -> ClipTable:
    """A list without header: `path label`, or mmaction2's `folder_of_frames number_of_frames label`.

    Raises:
        ClipTableError: it is none, or line 1 is a header, or fewer than half of its clips are there, or a
            clip has several labels.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ClipTableError(f"{path} is empty: give a path and a label per line.")
    # The label stands last, so a path may contain the delimiter; every line must have it.
    delimiter = next((d for d in _DELIMITERS if all(d in line for line in lines)), None)
    if delimiter is None:
        raise ClipTableError(
            f"{path} is no list of clips: every line needs a path and a label with a comma, tab, semicolon "
            f"or space between; line 1 is {lines[0][:60]!r}."
        )
    entries = [tuple(part.strip().strip('"') for part in line.rsplit(delimiter, 1)) for line in lines]
    there = [(path.parent / name).exists() for name, _ in entries]
    kind = "no header"
    if not there[0] and any(there):
        _refuse_header(path, entries)
    counted = None if all(there) else _with_frame_counts(path, lines, delimiter)
    if counted is not None:
        entries, kind = counted, "mmaction2's folder, number of frames, label"
    elif sum(there) < len(lines) / 2:
        raise ClipTableError(
            f"{len(lines) - sum(there)} of {len(lines)} clips in {path} are not there; the first would be "
            f"{path.parent / entries[there.index(False)][0]}. Paths are relative to the list. If line 1 is a "
            "header, its columns must be path and label."
        )
    clips = tuple(LabelledClip(path.parent / name, (label,)) for name, label in entries)
    return ClipTable(clips, f"{path} ({kind}, delimiter {delimiter!r})")


def _refuse_header(path: Path, entries: Sequence[tuple[str, ...]]) -> None:
    """A first line that names neither a clip nor a class of other clips is taken for a header, not dropped.

    Raises:
        ClipTableError: it looks like one.
    """
    name, label = entries[0]
    is_word = Path(name).suffix.lower() not in VIDEO_SUFFIXES and "/" not in name and not label.isdecimal()
    if is_word and Counter(label for _, label in entries)[label] == 1:
        raise ClipTableError(
            f"{path}: line 1, {name!r} and {label!r}, looks like a header; its columns must be path and "
            "label. (If it is a clip, it is not there.)"
        )


def _with_frame_counts(path: Path, lines: Sequence[str], delimiter: str) -> list[tuple[str, ...]] | None:
    """Paths and labels of a list whose lines end with several numbers, or None where they do not.

    Raises:
        ClipTableError: a clip has several labels.
    """
    entries: list[tuple[str, ...]] = []
    several = False
    for line in lines:
        name, numbers = _numbers_at_end(path.parent, line, delimiter)
        if not numbers:
            return None
        clip = path.parent / name
        if clip.exists():
            if len(numbers) > (2 if clip.is_dir() else 1):
                raise ClipTableError(
                    f"{path} gives {name} several labels ({line!r}), and each clip needs one here; a list of "
                    "folders of frames has the folder, the number of frames and one label. Where a clip may "
                    "have several, say data.multi_label=true (fibo data check: --multi-label)."
                )
            several |= len(numbers) > 1
        entries.append((name, numbers[-1]))
    return entries if several else None


def _numbers_at_end(folder: Path, line: str, delimiter: str) -> tuple[str, list[str]]:
    """A line as the path of a clip, which may itself end with a number, and the numbers behind it."""
    parts = line.split(delimiter)
    count = 0
    while count < len(parts) - 1 and parts[-1 - count].isdecimal():
        count += 1
    for numbers in range(1, count + 1):
        name = delimiter.join(parts[:-numbers])
        if (folder / name).exists():
            return name, parts[-numbers:]
    # It is not there. Where it may be a folder of frames, their number stands before the label.
    numbers = min(count, 2)
    return delimiter.join(parts[: len(parts) - numbers]), parts[len(parts) - numbers :]
