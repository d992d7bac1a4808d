"""Clips in folders named after their classes, with or without a folder for each split above them."""

from pathlib import Path

from fibo_robot.video.datasets.files import clips_below, split_folders, subfolders
from fibo_robot.video.datasets.table import (
    ClipTable,
    ClipTableError,
    LabelledClip,
    NoClipsFoundError,
    canonical_split,
    refuse_protocol,
)


def read_class_folders(root: Path, protocol: str | None) -> ClipTable:
    """Clips `CLASS/clip.mp4`, or `train/CLASS/clip.mp4` and so on.

    Raises:
        NoClipsFoundError: there are none.
        ClipTableError: folders named like splits stand beside others, and it cannot be told what they are.
    """
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
    splits = list(split_folders(root).values())
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
