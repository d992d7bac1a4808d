"""Labelled clips from what people have on disk: public data sets as they are published, tables, folders.

:func:`read_clips` recognises a data set by its files, and says in the table's description what it took it
for. Each reader returns None where it does not recognise its own.
"""

from pathlib import Path

from fibo_robot.video.datasets.layouts.class_folders import read_class_folders
from fibo_robot.video.datasets.layouts.lists import read_list_file, read_split_lists, read_table_in
from fibo_robot.video.datasets.layouts.named import read_named
from fibo_robot.video.datasets.layouts.official import read_hmdb51, read_something_something, read_ucf101
from fibo_robot.video.datasets.layouts.shards import read_shards
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    NoClipsFoundError,
    UnreadableDataError,
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
    * webdataset shards: see :func:`fibo_robot.video.datasets.layouts.shards.read_shards`;
    * Something-Something v2, UCF-101, HMDB51: see :mod:`fibo_robot.video.datasets.layouts.official`;
    * a folder with `train.csv`, `val.csv` and so on of either kind;
    * Toyota Smarthome, NTU RGB+D, NW-UCLA: see :func:`fibo_robot.video.datasets.layouts.named.read_named`;
    * a folder `CLASS/clip.mp4`, or `train/CLASS/clip.mp4` and so on; `Training` is a name for `train`, too.

    Wherever a clip is a file, it may also be a folder of its frames as numbered pictures.

    Args:
        root: the folder, table, list or tar file.
        split_column: column of a table that tells the split.
        protocol: which of a data set's official splits; its first one when None.
        multi_label: each clip has any number of labels. Then a table has a column `labels` instead of
            `label`, with semicolons between them, and a list without header is mmaction2's for such data
            (:func:`fibo_robot.video.datasets.layouts.multi_label.read_multi_label_list`), or there is one of
            either for each split. Nothing else is read.

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
        or read_class_folders(root, protocol)
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
