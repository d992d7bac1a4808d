"""Labelled clips from what people have on disk: public data sets as they are published, tables, folders.

:func:`read_clips` recognises a data set by its files, and says in the table's description what it took it
for. Each reader returns None where it does not recognise its own.
"""

from pathlib import Path

from fibo_robot.video.datasets.files import clips_below, split_folders, subfolders
from fibo_robot.video.datasets.lists import read_list_file, read_split_lists, read_table_in
from fibo_robot.video.datasets.named import read_named
from fibo_robot.video.datasets.official import read_hmdb51, read_something_something, read_ucf101
from fibo_robot.video.datasets.shards import read_shards
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    NoClipsFoundError,
    UnreadableDataError,
    canonical_split,
    refuse_protocol,
)


def read_clips(
    root: Path | str,
    split_column: str = "split",
    protocol: str | None = None,
    multi_label: bool = False,
) -> ClipTable:
    """Read labelled clips from a data set as it is published, or from a table or folder.

    The first of these that is found:

    * a folder with `clips.csv`, or a csv whose header has `path` and `label`: one clip per row, paths
      relative to the table; `split_column` names the column that tells its split, and columns `start` and
      `stop` the seconds of a longer video that are the clip;
    * a file without header (Kinetics style): a path and a label per line, with any of comma, tab, semicolon
      or space between, or a folder of frames, their number and a label (mmaction2's lists); or the
      annotation csv of Kinetics;
    * webdataset shards: see :func:`fibo_robot.video.datasets.shards.read_shards`;
    * Something-Something v2, UCF-101, HMDB51: see :mod:`fibo_robot.video.datasets.official`;
    * a folder with `train.csv`, `val.csv` and so on of either kind;
    * Toyota Smarthome, NTU RGB+D, NW-UCLA: see :func:`fibo_robot.video.datasets.named.read_named`;
    * a folder `CLASS/clip.mp4`, or `train/CLASS/clip.mp4` and so on; `Training` is a name for `train`, too.

    Wherever a clip is a file, it may also be a folder of its frames as numbered pictures.

    Args:
        root: the folder, table, list or tar file.
        split_column: column of a table that tells the split.
        protocol: which of a data set's official splits; its first one when None.
        multi_label: each clip has any number of labels. Then a table has a column `labels` instead of
            `label`, with semicolons between them, and a list without header is mmaction2's for such data
            (:func:`fibo_robot.video.datasets.multi_label.read_multi_label_list`), or there is one of either
            for each split. Nothing else is read.

    Raises:
        NoClipsFoundError: nothing of this kind is found; the message says what was looked for.
        UnreadableDataError: a folder or list may not be read.
        ClipTableError: a table or list is damaged, or there is no such protocol; the message names those that
            exist.
    """
    try:
        return _read_clips(Path(root), split_column, protocol, multi_label)
    except OSError as error:
        raise UnreadableDataError(
            f"{error.filename or root} cannot be read ({error.strerror}): clips may be missing without it."
        ) from error


def _read_clips(root: Path, split_column: str, protocol: str | None, multi_label: bool) -> ClipTable:
    if not root.exists():
        raise ClipTableError(f"There are no clips at {root}: no such file or folder.")
    if multi_label:
        return _read_multi_label(root, split_column, protocol)
    if root.is_file():
        if root.suffix == ".tar":
            table = read_shards(root, protocol)
            assert table is not None
            return table
        return read_list_file(root, protocol, split_column)
    return (
        read_table_in(root, protocol, split_column)
        or read_shards(root, protocol)
        or read_something_something(root, protocol)
        or read_ucf101(root, protocol)
        or read_hmdb51(root, protocol)
        or read_split_lists(root, protocol)
        or read_named(root, protocol)
        or _read_class_folders(root, protocol)
    )


def _read_multi_label(root: Path, split_column: str, protocol: str | None) -> ClipTable:
    table = None
    if root.is_dir():
        table = read_table_in(root, protocol, split_column, multi_label=True)
        table = table or read_split_lists(root, protocol, multi_label=True)
    elif root.is_file() and root.suffix != ".tar":
        table = read_list_file(root, protocol, split_column, multi_label=True)
    if table is None:
        raise NoClipsFoundError(
            f"{root} says nowhere which labels its clips have, if they may have several: that needs a table "
            "with columns path and labels (run;jump), or lists as mmaction2 has them (a.mp4 3 17)."
        )
    if not table.labels:
        raise ClipTableError(f"{root} gives not one clip a label.")
    return table


def _read_class_folders(root: Path, protocol: str | None) -> ClipTable:
    splits = _splits_of_class_folders(root)
    parts = [(folder.name.lower(), folder) for folder in splits] or [("", root)]
    clips = [
        LabelledClip(file, (class_folder.name,), split)
        for split, part in parts
        for class_folder in subfolders(part)
        for file in clips_below(class_folder)
    ]
    if not clips:
        raise NoClipsFoundError(
            f"{root} holds neither clips.csv, nor a data set that is known here (see `fibo data list`), nor "
            "folders of clips named after their classes."
        )
    refuse_protocol(protocol, str(root))
    kind = f"class folders in {', '.join(folder.name for folder in splits)}" if splits else "class folders"
    listed = {clip.path for clip in clips}
    left_out = tuple(path for path in clips_below(root) if path not in listed)
    note = f"; {len(left_out)} clips outside of class folders are left out" if left_out else ""
    return ClipTable(tuple(clips), f"{root} ({kind}{note})", left_out)


def _splits_of_class_folders(root: Path) -> list[Path]:
    """The folders of a data set's parts; none where its classes lie on top.

    Raises:
        ClipTableError: some folders are named like parts and others not, and it cannot be told what they are.
    """
    splits = split_folders(root)
    others = [folder for folder in subfolders(root) if canonical_split(folder.name) is None]
    others = [folder for folder in others if clips_below(folder)]
    if not splits or not others:
        return splits
    if all(clip.parent == folder for folder in splits for clip in clips_below(folder)):
        return []  # a class may be named `train`: its clips lie in it as those of the others do
    raise ClipTableError(
        f"{root} holds {splits[0].name}, named like a part of the data, beside {others[0].name}, which is "
        "not: give a folder of parts or one of classes, or list the clips in clips.csv."
    )
