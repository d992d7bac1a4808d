"""Labelled clips from what people have on disk: a table of clips, a list of paths and labels, class folders.

Every reader returns a :class:`ClipTable`; :func:`read_clips` chooses the reader by what it finds and says so
in the table's description.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fibo_robot.errors import FiboError, did_you_mean

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".gif", ".flv", ".wmv", ".ts", ".3gp"}
)
_SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
_DELIMITERS = (",", "\t", ";", " ")


class ClipTableError(FiboError):
    """A folder or table of clips is missing or does not say what is needed; the message says what."""


@dataclass(frozen=True)
class LabelledClip:
    """One clip.

    Attributes:
        path: the video file, or a folder of its frames as pictures.
        label: the name of its class.
        split: the part it belongs to (`train`, `test`, a fold's number …); empty where nothing says so.
    """

    path: Path
    label: str
    split: str = ""


@dataclass(frozen=True)
class ClipTable:
    """Labelled clips and where they came from.

    Attributes:
        clips: in the order in which they were listed.
        description: one line: which format was recognised, and how it was read.
    """

    clips: tuple[LabelledClip, ...]
    description: str

    @property
    def labels(self) -> list[str]:
        """Names of the classes: ascending as numbers where all are numbers, else by alphabet."""
        names = {clip.label for clip in self.clips}
        if all(name.isdecimal() for name in names):
            return sorted(names, key=int)
        return sorted(names)

    def part(self, split: str | None, exclude: str | None = None) -> list[LabelledClip]:
        """The clips of one split; with None, all clips but those of the split `exclude`.

        Raises:
            ClipTableError: the part is empty; the message names the splits that exist.
        """
        if split is None:
            chosen = [clip for clip in self.clips if clip.split != exclude or exclude is None]
        else:
            chosen = [clip for clip in self.clips if clip.split == str(split)]
        if not chosen:
            found = Counter(clip.split or "(none)" for clip in self.clips)
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
            raise ClipTableError(f"No clips in split {split!r}. The splits of {self.description}: {listed}.")
        return chosen


def read_clips(root: Path | str, split_column: str = "split") -> ClipTable:
    """Read labelled clips from a table or folder.

    * a folder with `clips.csv`, or a csv whose header has `path` and `label`: one clip per row, paths
      relative to the table; `split_column` names the column that tells its split;
    * a text file without header (Kinetics style): a path and a label per line, with any of comma, tab,
      semicolon or space between;
    * a folder `CLASS/clip.mp4`, or `train/CLASS/clip.mp4` and so on.

    Raises:
        ClipTableError: nothing of this kind is found; the message says what was looked for.
    """
    root = Path(root)
    if not root.exists():
        raise ClipTableError(f"There are no clips at {root}: no such file or folder.")
    if root.is_dir():
        table = root / "clips.csv"
        return _read_table(table, split_column) if table.is_file() else _read_folders(root)
    try:
        with root.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
    except UnicodeDecodeError as error:
        raise ClipTableError(f"{root} is not a text file with paths and labels.") from error
    fields = {
        field.strip().strip('"').lower() for field in first.replace("\t", ",").replace(";", ",").split(",")
    }
    return _read_table(root, split_column) if {"path", "label"} <= fields else _read_list(root)


def _read_table(table: Path, split_column: str) -> ClipTable:
    with table.open(newline="", encoding="utf-8-sig") as stream:
        header = stream.readline()
        delimiter = max(",\t;", key=header.count)
        stream.seek(0)
        rows = list(csv.DictReader(stream, delimiter=delimiter))
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


def _read_folders(root: Path) -> ClipTable:
    splits = [folder for folder in _folders(root) if folder.name in _SPLIT_FOLDERS]
    parts = [(folder.name, folder) for folder in splits] or [("", root)]
    clips = [
        LabelledClip(file, class_folder.name, split)
        for split, part in parts
        for class_folder in _folders(part)
        for file in video_files(class_folder)
    ]
    if not clips:
        raise ClipTableError(
            f"{root} holds neither clips.csv nor folders of video files named after their classes."
        )
    kind = f"class folders in {', '.join(name for name, _ in parts)}" if splits else "class folders"
    return ClipTable(tuple(clips), f"{root} ({kind})")


def video_files(folder: Path) -> list[Path]:
    """Files below `folder` whose name ends like a video's, sorted."""
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()
    )


def _folders(folder: Path) -> Iterable[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
