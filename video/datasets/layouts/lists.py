"""Lists of clips: tables with a header, lists without one, and the annotation files of Kinetics."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fibo_robot.video.datasets.files import VIDEO_SUFFIXES, subfolders
from fibo_robot.video.datasets.layouts.multi_label import LABELS, read_multi_label_list
from fibo_robot.video.datasets.layouts.tables import KINETICS_COLUMNS, read_kinetics, read_table
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    canonical_split,
    read_text,
    refuse_protocol,
)

_DELIMITERS = (",", "\t", ";", " ")


def read_table_in(
    root: Path, protocol: str | None, split_column: str, multi_label: bool = False
) -> ClipTable | None:
    """The table `clips.csv` of a folder, or None where there is none."""
    table = root / "clips.csv"
    if not table.is_file():
        return None
    refuse_protocol(protocol, str(table))
    return read_table(table, split_column, multi_label)


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
    if columns >= KINETICS_COLUMNS and not multi_label:
        return read_kinetics([path], path.parent)
    if "path" in columns and columns & {"label", LABELS}:
        return read_table(path, split_column, multi_label)
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
    if not multi_label and all(_columns(path) >= KINETICS_COLUMNS for path in lists.values()):
        return read_kinetics(list(lists.values()), root)
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
