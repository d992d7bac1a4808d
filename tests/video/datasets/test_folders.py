"""Folders of clips: links, folders that may not be read, and names that mean a split or a class."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fibo_robot.video.datasets.check import check_clips, find_clips
from fibo_robot.video.datasets.files import clips_below, video_files
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTableError, UnreadableDataError
from fibo_robot.video.decode import VideoDecodeError
from fibo_robot.video.reading.clip import open_clip
from tests.video import clips


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    store, data = tmp_path / "store", tmp_path / "data"
    for subject in (1, 3):
        write(store / f"S001C001P00{subject}R001A001_rgb.avi")
    data.mkdir()
    (data / "rgb").symlink_to(store)
    (store / "back").symlink_to(data)
    found = [data / "rgb" / f"S001C001P00{subject}R001A001_rgb.avi" for subject in (1, 3)]
    assert clips_below(data) == video_files(data) == found
    table = read_clips(data)
    assert "NTU RGB+D 60" in table.description
    assert [(clip.path, clip.split) for clip in table.clips] == list(zip(found, ("train", "test")))


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    write(tmp_path / "store" / "1.mp4")
    (tmp_path / "data").mkdir()
    for label in ("run", "jump"):
        (tmp_path / "data" / label).symlink_to(tmp_path / "store")
    assert [clip.label for clip in read_clips(tmp_path / "data").clips] == ["jump", "run"]


@pytest.mark.parametrize(
    ("train", "val"), [("training", "validation"), ("Train", "Val"), ("TRAIN", "valid"), ("train", "Testing")]
)
def test_splits_are_known_by_any_of_their_names(tmp_path: Path, train: str, val: str) -> None:
    for split, count in ((train, 2), (val, 1)):
        for number in range(count):
            write(tmp_path / split / "run" / f"{number}.mp4")
    table = read_clips(tmp_path)
    assert table.labels == ["run"]
    assert len(table.part("train")) == 2
    assert len(table.part("test" if val == "Testing" else "val")) == 1
    assert table.part(None, exclude="train") == [clip for clip in table.clips if clip.path.parts[-3] == val]


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "Training"):
        write(tmp_path / split / "run" / "1.mp4")
    with pytest.raises(ClipTableError, match=r"Training and train.*both mean the split train"):
        read_clips(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        write(tmp_path / label / "1.mp4")
    table = read_clips(tmp_path)
    assert Counter((clip.label, clip.split) for clip in table.clips) == Counter(
        [("bus", ""), ("car", ""), ("train", "")]
    )


def test_splits_beside_classes_are_refused(tmp_path: Path) -> None:
    for name in ("train/run/1.mp4", "extra/2.mp4"):
        write(tmp_path / name)
    with pytest.raises(ClipTableError, match=r"train, named like a part.*beside extra.*clips\.csv"):
        read_clips(tmp_path)


def test_clips_on_top_of_class_folders_are_said_and_checked(tmp_path: Path) -> None:
    for name in ("run/1.mp4", "run/2.mp4", "3.mp4"):
        write(tmp_path / name)
    table = read_clips(tmp_path)
    assert len(table.clips) == 2 and "1 clips outside of class folders are left out" in table.description
    files, _ = find_clips(tmp_path)
    assert [file.name for file in files] == ["1.mp4", "2.mp4", "3.mp4"]


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """An empty folder that everyone may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)
        for place, folders, _ in os.walk(folder):
            for name in folders:
                os.chmod(os.path.join(place, name), 0o777)


@contextmanager
def held_back_by_rights() -> Iterator[None]:
    """As someone who may not read everything, as the superuser may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_not_called_damaged(public_folder: Path) -> None:
    path = clips.write_video(public_folder / "clip.mp4", clips.numbered_frames(4, 64, 64))
    path.chmod(0)
    closed = public_folder / "closed"
    closed.mkdir()
    inside = clips.write_video(closed / "clip.mp4", clips.numbered_frames(4, 64, 64))
    closed.chmod(0)
    for clip in (path, inside):
        with held_back_by_rights(), pytest.raises(VideoDecodeError) as raised:
            open_clip(clip)
        assert "clip.mp4: cannot be read (Permission denied)" in str(raised.value)
        assert "damaged" not in str(raised.value)


def test_pictures_that_may_not_be_read_are_not_called_damaged(public_folder: Path) -> None:
    picture = public_folder / "00001.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    picture.chmod(0)
    denied = r"00001\.png: cannot be read \(Permission denied\)"
    with held_back_by_rights(), pytest.raises(VideoDecodeError, match=denied):
        open_clip(public_folder)


def test_an_unreadable_folder_is_a_row_of_the_check_and_stops_training(public_folder: Path) -> None:
    data = public_folder / "data"
    for label in ("run", "jump"):
        (data / label).mkdir(parents=True)
        clips.write_video(data / label / "1.mp4", clips.numbered_frames(4, 64, 64))
    (data / "jump").chmod(0)
    denied = r"jump.* cannot be read \(Permission denied\)"
    with held_back_by_rights(), pytest.raises(UnreadableDataError, match=denied):
        read_clips(data)
    with held_back_by_rights():
        files, _ = find_clips(data)
        rows = check_clips(files, public_folder / "checked.csv")
    assert {Path(row.path).name: bool(row.problem) for row in rows} == {"1.mp4": False, "jump": True}
    assert "cannot be read" in rows[-1].problem
