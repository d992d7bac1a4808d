"""Clips on disk: finding all of them below a folder, or single ones by the names that lists give them."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fibo_robot.video.reading.frames import is_frame

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf"),
        *(".flv", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".gif", ".apng"),
        *(".y4m", ".ivf"),
    }
)
_SAMPLED_NAMES = 200  # enough to tell which folder holds the clips


def video_files(folder: Path) -> list[Path]:
    """Files below `folder` whose name ends like a video's, sorted."""
    return sorted(file for file in folder.rglob("*") if _is_video(file.name) and file.is_file())


def is_frame_folder(folder: Path) -> bool:
    """Whether a folder is itself a clip: it holds frames as numbered pictures, and no videos."""
    return _are_frames([file.name for file in folder.iterdir() if file.is_file()])


def clips_below(folder: Path) -> list[Path]:
    """Video files, and folders that hold a clip's frames as numbered pictures, below `folder`; sorted."""
    found: list[Path] = []
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(current, name) for name in files if _is_video(name)]
        if Path(current) != folder and _are_frames(files):
            found.append(Path(current))
            folders.clear()
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder`, without hidden ones, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


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
