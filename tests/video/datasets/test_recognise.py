"""Reading labelled clips from tables, lists and folders."""

from pathlib import Path

import pytest

from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTableError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_table_with_header_is_read_by_column_names(tmp_path: Path) -> None:
    write(tmp_path / "clips.csv", "label,fold,path\nrun,0,a/1.mp4\njump,1,a/2.mp4\n")
    table = read_clips(tmp_path, split_column="fold")
    assert [(c.path, c.label, c.split) for c in table.clips] == [
        (tmp_path / "a/1.mp4", "run", "0"),
        (tmp_path / "a/2.mp4", "jump", "1"),
    ]
    assert table.labels == ["jump", "run"]


def test_spaces_around_cells_make_no_classes_or_splits_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "clips.csv", "path, label, split\na.mp4, run, train\nb.mp4,run ,test\n")
    table = read_clips(tmp_path)
    assert table.labels == ["run"]
    assert [(c.path.name, c.split) for c in table.clips] == [("a.mp4", "train"), ("b.mp4", "test")]


def test_numbers_that_are_equal_but_written_differently_have_one_order(tmp_path: Path) -> None:
    names = ["0" * zeros + "1" for zeros in range(12)]  # a set's order changes from process to process
    write(tmp_path / "clips.csv", "path,label\n" + "".join(f"{name}.mp4,{name}\n" for name in names))
    assert read_clips(tmp_path).labels == names[::-1]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", " "])
def test_list_without_header_may_use_any_delimiter_and_says_which(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "train.txt", f"clips/one.mp4{delimiter}10\nclips/two.mp4{delimiter}9\n")
    for name in ("one", "two"):
        write(tmp_path / "clips" / f"{name}.mp4", "")
    table = read_clips(path)
    assert [clip.path for clip in table.clips] == [tmp_path / "clips/one.mp4", tmp_path / "clips/two.mp4"]
    assert table.labels == ["9", "10"]
    assert repr(delimiter) in table.description


def test_list_allows_spaces_in_paths(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "my clips/a b.mp4,cook\nmy clips/c,d.mp4,eat\n")
    for name in ("a b", "c,d"):
        write(tmp_path / "my clips" / f"{name}.mp4", "")
    assert [(c.path.name, c.label) for c in read_clips(path).clips] == [
        ("a b.mp4", "cook"),
        ("c,d.mp4", "eat"),
    ]


def test_folders_are_classes_with_or_without_splits(tmp_path: Path) -> None:
    for name in ("plain/run/1.mp4", "plain/jump/2.AVI", "plain/jump/notes.txt", "parts/train/run/1.mp4"):
        write(tmp_path / name, "")
    write(tmp_path / "parts/val/run/2.webm", "")
    plain = read_clips(tmp_path / "plain")
    assert [(c.path.name, c.label, c.split) for c in plain.clips] == [
        ("2.AVI", "jump", ""),
        ("1.mp4", "run", ""),
    ]
    assert [(c.path.name, c.split) for c in read_clips(tmp_path / "parts").clips] == [
        ("1.mp4", "train"),
        ("2.webm", "val"),
    ]


def test_parts_are_chosen_by_name_or_by_leaving_one_out(tmp_path: Path) -> None:
    rows = "".join(f"{i}.mp4,run,{i % 3}\n" for i in range(6))
    table = read_clips(write(tmp_path / "clips.csv", "path,label,fold\n" + rows), "fold")
    assert [c.path.name for c in table.part("1")] == ["1.mp4", "4.mp4"]
    assert [c.path.name for c in table.part(None, exclude="1")] == ["0.mp4", "2.mp4", "3.mp4", "5.mp4"]
    # A config reads valid_split=1 as a number; the fold must be left out of training all the same.
    assert table.part(1) == table.part("1") and table.part(None, exclude=1) == table.part(None, exclude="1")
    with pytest.raises(ClipTableError, match=r"0 \(2\), 1 \(2\), 2 \(2\)"):
        table.part("train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipTableError, match="no such file"):
        read_clips(tmp_path / "absent")
    with pytest.raises(ClipTableError, match=r"clips\.csv"):
        read_clips(tmp_path)
    with pytest.raises(ClipTableError, match="columns path and label"):
        (tmp_path / "folder").mkdir()
        write(tmp_path / "folder" / "clips.csv", "file,label\na.mp4,run\n")
        read_clips(tmp_path / "folder")
    with pytest.raises(ClipTableError, match="'fold'"):
        read_clips(write(tmp_path / "c.csv", "path,label,fold\na.mp4,run,1\n"), "folds")
    with pytest.raises(ClipTableError, match="line 1 is 'nothing'"):
        read_clips(write(tmp_path / "list.txt", "nothing\n"))
