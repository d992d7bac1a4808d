"""Lists of clips: tables with a header, lists without one, and the annotation files of Kinetics."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from fibo_robot.errors import did_you_mean
from fibo_robot.video.datasets.files import clips_below, subfolders
from fibo_robot.video.datasets.table import (
    SPLIT_NAMES,
    ClipTable,
    ClipTableError,
    LabelledClip,
    note_missing,
    refuse_protocol,
)

_DELIMITERS = (",", "\t", ";", " ")
_KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end"}


def read_table_in(root: Path, protocol: str | None, split_column: str) -> ClipTable | None:
    """The table `clips.csv` of a folder, or None where there is none."""
    table = root / "clips.csv"
    if not table.is_file():
        return None
    refuse_protocol(protocol, str(table))
    return _read_table(table, split_column)


def read_list_file(path: Path, protocol: str | None, split_column: str) -> ClipTable:
    """A table with a header, a Kinetics annotation file, or a list of paths and labels.

    Raises:
        ClipTableError: it is none of these; the message says what is missing.
    """
    refuse_protocol(protocol, str(path))
    columns = _columns(path)
    if columns >= _KINETICS_COLUMNS:
        return _read_kinetics([path], path.parent)
    return _read_table(path, split_column) if columns >= {"path", "label"} else _read_list(path)


def read_split_lists(root: Path, protocol: str | None) -> ClipTable | None:
    """One list per split in a folder or its folder `annotations`: `train.csv`, `val.csv`, `k400_test.txt` ….

    They are Kinetics annotation files (columns label, youtube_id, time_start, time_end, split, as published
    at https://github.com/cvdfoundation/kinetics-dataset; clips `ID_000010_000020.mp4` anywhere below the
    folder), or lists of paths and labels. None where there are no such files.
    """
    places = [root, *(folder for folder in subfolders(root) if folder.name == "annotations")]
    lists = next((found for place in places if (found := _split_lists(place))), None)
    if not lists:
        return None
    refuse_protocol(protocol, str(root))
    if all(_columns(path) >= _KINETICS_COLUMNS for path in lists.values()):
        return _read_kinetics(list(lists.values()), root)
    clips: list[LabelledClip] = []
    described = []
    for split, path in lists.items():
        table = read_list_file(path, None, "split")
        clips += [LabelledClip(clip.path, clip.label, clip.split or split) for clip in table.clips]
        described.append(table.description.removeprefix(f"{path.parent}/"))
    return ClipTable(tuple(clips), f"{root} (a list per split: {'; '.join(described)})")


def _split_lists(folder: Path) -> dict[str, Path]:
    """Lists named after a split, such as `train.csv` or `kinetics-400_val.txt`, by the name of the split."""
    named = {}
    for path in sorted(folder.iterdir()):
        split = re.split(r"[-_]", path.stem)[-1]
        if path.suffix.lower() in (".csv", ".txt") and split in SPLIT_NAMES and path.is_file():
            if split in named:
                raise ClipTableError(
                    f"{folder} holds two lists for {split}: {named[split].name}, {path.name}."
                )
            named[split] = path
    return named


def _columns(path: Path) -> set[str]:
    """The names of the columns, if the first line is a header; else the fields of the first clip."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
    except UnicodeDecodeError as error:
        raise ClipTableError(f"{path} is not a text file with paths and labels.") from error
    return {field.strip().strip('"').lower() for field in re.split(r"[,\t;]", header)}


def _read_rows(table: Path) -> tuple[list[dict[str, str]], str]:
    """Rows by the names of the columns, and the delimiter that was found."""
    with table.open(newline="", encoding="utf-8-sig") as stream:
        header = stream.readline()
        delimiter = max(",\t;", key=header.count)
        stream.seek(0)
        rows = list(csv.DictReader(stream, delimiter=delimiter))
    return rows, delimiter


def _read_table(table: Path, split_column: str) -> ClipTable:
    rows, delimiter = _read_rows(table)
    columns = list(rows[0]) if rows else []
    for needed in ("path", "label"):
        if needed not in columns:
            raise ClipTableError(
                f"{table} needs columns path and label; it has {', '.join(columns) or 'none'}."
            )
    if split_column not in columns and split_column != "split":
        hint = did_you_mean(split_column, columns)
        raise ClipTableError(f"{table} has no column {split_column!r}. {hint}")
    clips = tuple(
        LabelledClip(table.parent / row["path"], row["label"], row.get(split_column) or "") for row in rows
    )
    return ClipTable(clips, f"{table} (columns {', '.join(columns)}; delimiter {delimiter!r})")


def _read_kinetics(tables: Sequence[Path], root: Path) -> ClipTable:
    by_name = {path.stem: path for path in clips_below(root)}  # neither ids nor names of folders hold dots
    clips, delimiters, unlabelled = [], set(), []
    missing = 0
    for table in tables:
        rows, delimiter = _read_rows(table)
        delimiters.add(repr(delimiter))
        if rows and "label" not in rows[0]:  # the test set was first published without labels
            unlabelled.append(table.name)
            continue
        for number, row in enumerate(rows, start=2):
            name, split = _kinetics_name(row, f"{table}, line {number}"), row.get("split") or table.stem
            path = by_name.get(name) or by_name.get(row["youtube_id"])
            missing += path is None
            clips.append(LabelledClip(path or root / split / f"{name}.mp4", row["label"], split))
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
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ClipTableError(f"{path} is empty: give a path and a label per line.")
    # The label stands last, so a path may contain the delimiter; every line must have it.
    delimiter = next((d for d in _DELIMITERS if all(d in line for line in lines)), None)
    if delimiter is None:
        raise ClipTableError(
            f"{path} is no list of clips: every line needs a path and a label with a comma, tab, semicolon "
            f"or space between; line 1 is {lines[0][:60]!r}."
        )
    clips = []
    for line in lines:
        name, label = (part.strip().strip('"') for part in line.rsplit(delimiter, 1))
        clips.append(LabelledClip(path.parent / name, label))
    return ClipTable(tuple(clips), f"{path} (no header, delimiter {delimiter!r})")
