"""Clips on disk: finding all of them below a folder, or single ones by the names that lists give them."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from fibo_robot.errors import FiboError
from fibo_robot.video.datasets.table import ClipTableError, canonical_split
from fibo_robot.video.reading.frames import is_frame

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf"),
        *(".flv", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".gif", ".apng"),
        *(".y4m", ".ivf"),
    }
)
_SAMPLED_NAMES = 200  # enough to tell which folder holds the clips


def walk(folder: Path, refused: list[Path] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders from `folder` down with the names of their subfolders and files, as `os.walk` yields them.

    Links to folders are followed, but not back into a folder that is being walked through. Subfolders that
    the caller takes out of the list are left out; hidden ones are never entered.

    Args:
        folder: where to begin.
        refused: takes the folders that may not be read; None raises the system's error.
    """
    yield from _walk(folder, frozenset(), refused)


def _walk(
    folder: Path, above: frozenset[tuple[int, int]], refused: list[Path] | None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        files = [entry.name for entry in entries if entry.is_file()]
    except PermissionError:
        if refused is None:
            raise
        refused.append(folder)
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    yield folder, folders, files
    for name in folders:
        yield from _walk(folder / name, above | {here}, refused)


def video_files(folder: Path) -> list[Path]:
    """Files below `folder` whose name ends like a video's, sorted."""
    return sorted(place / name for place, _, files in walk(folder) for name in files if _is_video(name))


def is_frame_folder(folder: Path) -> bool:
    """Whether a folder is itself a clip: it holds frames as numbered pictures, and no videos."""
    return _are_frames([file.name for file in folder.iterdir() if file.is_file()])


def clips_below(folder: Path, refused: list[Path] | None = None) -> list[Path]:
    """Video files, and folders that hold a clip's frames as numbered pictures, below `folder`; sorted.

    Args:
        folder: where to look; links to folders are followed.
        refused: takes the folders that may not be read; None raises the system's error.
    """
    found: list[Path] = []
    for place, folders, files in walk(folder, refused):
        found += [place / name for name in files if _is_video(name)]
        if place != folder and _are_frames(files):
            found.append(place)
            folders.clear()
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder`, without hidden ones, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def split_folders(
    root: Path,
    error: type[FiboError] = ClipTableError,
    advice: str = "put their clips into one of them, or list them in clips.csv",
) -> dict[str, Path]:
    """Folders directly in `root` that are named like parts of a data set, by the part: `train`, `Val` ….

    Raises:
        FiboError: two of them mean the same part: an `error`, which ends with the advice.
    """
    found: dict[str, Path] = {}
    for folder in subfolders(root):
        split = canonical_split(folder.name)
        if split is None:
            continue
        if split in found:
            raise error(
                f"{root} holds {found[split].name} and {folder.name}, which both mean the split {split}; "
                f"{advice}."
            )
        found[split] = folder
    return found


class ClipFinder:
    """Finds clips that a list names, in whatever container they are kept or as folders of frames.

    Args:
        root: the clips lie here or in a folder directly below, whichever holds more of `names`.
        names: as the list gives them, such as `Archery/v_Archery_g01_c01.avi`.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._listing = cache(_listing)
        sample = names[:: max(1, len(names) // _SAMPLED_NAMES)]
        places = [root, *subfolders(root)]
        self.folder = max(places, key=lambda place: sum(self._look_up(place, n) is not None for n in sample))
        self.missing = 0

    def find(self, name: str) -> Path:
        """Where the clip is, or would be: then it is counted in `missing`."""
        path = self._look_up(self.folder, name)
        if path is None:
            self.missing += 1
            return self.folder / name
        return path

    def _look_up(self, place: Path, name: str) -> Path | None:
        file = place / name
        entries = self._listing(file.parent)
        stem = file.stem if file.suffix.lower() in VIDEO_SUFFIXES else file.name
        return entries.get(file.name) or entries.get(stem)


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def _are_frames(names: Sequence[str]) -> bool:
    """Whether files of these names are a clip's frames: some are named like frames, and none like a video."""
    return any(is_frame(name) for name in names) and not any(_is_video(name) for name in names)


def _listing(folder: Path) -> dict[str, Path]:
    """Files and folders in `folder` by name; videos also by their name without suffix."""
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    names = {path.stem: path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES}
    return names | {path.name: path for path in entries}
