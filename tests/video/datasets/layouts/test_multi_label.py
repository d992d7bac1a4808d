"""Data sets whose clips have any number of labels: tables, and mmaction2's lists."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTable, ClipTableError, NoClipsFoundError


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("L", (2, 2)).save(folder / f"img_{number:05d}.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three videos, and clips of 3 and 4 pictures."""
    for name in ("a.mp4", "b 7.mp4", "c.mp4"):
        write(tmp_path / name)
    pictures(tmp_path / "run" / "x1", 3)
    pictures(tmp_path / "jump" / "y 7", 4)
    return tmp_path


def labels_of(table: ClipTable, root: Path) -> dict[str, tuple[str, ...]]:
    assert table.multi_label
    return {clip.path.relative_to(root).as_posix(): clip.labels for clip in table.clips}


def test_mmaction2s_lists_of_videos(root: Path) -> None:
    # The layout of mmaction2's own test file: a video and its classes, one or several.
    path = write(root / "list.txt", "a.mp4 3 17\nb 7.mp4 5\nc.mp4\n")
    table = read_clips(path, multi_label=True)
    assert labels_of(table, root) == {"a.mp4": ("3", "17"), "b 7.mp4": ("5",), "c.mp4": ()}
    assert table.labels == ["3", "5", "17"]  # as numbers


@pytest.mark.parametrize(
    "line", ["a.mp4  3\t17 ", "a.mp4\t3\t17\r", "a.mp4,3,17", "a.mp4; 03; 17", "a.mp4 3 17 3"]
)
def test_numbers_are_read_whatever_stands_between_them(root: Path, line: str) -> None:
    assert labels_of(read_clips(write(root / "list.txt", f"{line}\n"), multi_label=True), root) == {
        "a.mp4": ("3", "17")
    }


def test_mmaction2s_lists_of_pictures_have_their_number_first(root: Path) -> None:
    path = write(root / "list.txt", "run/x1 3 1 5\njump/y 7 4 5\ngone/z 9\n")
    table = read_clips(path, multi_label=True)
    assert labels_of(table, root) == {"run/x1": ("1", "5"), "jump/y 7": ("5",), "gone/z": ()}
    assert "number of frames" in table.description


def test_a_table_has_a_column_of_labels(root: Path) -> None:
    write(root / "clips.csv", "path,labels,split\na.mp4,run; jump ;run,train\nc.mp4,,test\n")
    table = read_clips(root, multi_label=True)
    assert labels_of(table, root) == {"a.mp4": ("run", "jump"), "c.mp4": ()}
    assert [clip.split for clip in table.clips] == ["train", "test"]
    assert table.labels == ["jump", "run"]


def test_there_may_be_a_list_per_split(root: Path) -> None:
    write(root / "train.txt", "a.mp4 0 1\n")
    write(root / "val.txt", "c.mp4 1\n")
    table = read_clips(root, multi_label=True)
    assert labels_of(table, root) == {"a.mp4": ("0", "1"), "c.mp4": ("1",)}
    assert [clip.labels for clip in table.part("val")] == [("1",)]


def test_nothing_is_taken_for_multi_label_unless_it_is_said(root: Path) -> None:
    one_each = write(root / "list.txt", "run/x1 3 1\njump/y 7 4 0\n")
    table = read_clips(one_each)
    assert not table.multi_label and [clip.labels for clip in table.clips] == [("1",), ("0",)]
    several = write(root / "several.txt", "a.mp4 3\nc.mp4 3 17\n")
    with pytest.raises(ClipTableError, match=r"several labels.*data\.multi_label=true"):
        read_clips(several)
    write(root / "clips.csv", "path,labels\na.mp4,run;jump\n")
    with pytest.raises(ClipTableError, match=r"needs columns path and label;.*data\.multi_label=true"):
        read_clips(root)


def test_offsets_are_not_taken_for_numbers_of_frames(root: Path) -> None:
    # mmaction2's lists with offsets: folder, first frame, number of frames, label.
    path = write(root / "list.txt", "run/x1 0 3 1\njump/y 7 0 4 2\n")
    with pytest.raises(ClipTableError, match=r"line 1: 0 stands.*x1 holds 3 pictures.*2 of 2.*offsets"):
        read_clips(path, multi_label=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.mp4 run jump\n", r"no line ends with a number.*columns path and labels"),
        ("a.mp4 1\nc.mp4,2\n", r"with one comma, semicolon or space between"),
        ("a.mp4 1\nc.mp4 run\n", r"line 2: 'c\.mp4 run' is not there"),
        ("run/x1 3 1\njump/y 7\n", r"line 2: jump/y 7 is a folder of frames: their number"),
        ("x.mp4 1\ny.mp4 2\na.mp4 1\n", r"2 of 3 clips.*not there.*x\.mp4.*relative to the list"),
        ("", "no line ends with a number"),
    ],
)
def test_other_lists_are_refused_with_a_reason(root: Path, lines: str, message: str) -> None:
    path = write(root / "list.txt", lines)
    with pytest.raises(ClipTableError, match=message):
        read_clips(path, multi_label=True)


def test_a_line_that_names_two_clips_is_refused(root: Path) -> None:
    pictures(root / "jump" / "y", 4)
    path = write(root / "list.txt", "jump/y 7 4 5\n")
    with pytest.raises(ClipTableError, match="both jump/y 7 and jump/y are there"):
        read_clips(path, multi_label=True)


def test_what_has_one_label_to_a_clip_is_not_read_as_multi_label(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NoClipsFoundError, match="if they may have several"):
        read_clips(root, multi_label=True)
    write(root / "clips.csv", "path,label\na.mp4,run\n")
    with pytest.raises(ClipTableError, match=r"needs columns path and labels; it has path, label\."):
        read_clips(root, multi_label=True)
    write(root / "clips.csv", "path,labels\na.mp4,\n")
    with pytest.raises(ClipTableError, match="not one clip a label"):
        read_clips(root, multi_label=True)


def test_such_clips_can_be_checked_before_training(root: Path, tmp_path: Path) -> None:
    path = write(root / "list.txt", "run/x1 3 1 5\njump/y 7 4 5\n")
    arguments = ["data", "check", str(path), "--output", str(tmp_path / "checked.csv"), "--multi-label"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "2 readable, 3 to 4 frames" in result.stdout
