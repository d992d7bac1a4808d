"""Lists and tables of clips that are not as they should be, and mmaction2's lists."""

from pathlib import Path

import pytest

from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTableError


def write(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.mp4")
    return tmp_path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Clips as folders of pictures, one of them with a space and a number in its name."""
    for name in ("run/x1", "run/x2", "jump/y 7"):
        write(tmp_path / name / "00001.jpg")
    return tmp_path


@pytest.mark.parametrize("header", ["filename,class", "video,action", "name,target"])
def test_a_header_of_other_columns_is_no_clip(videos: Path, header: str) -> None:
    path = write(videos / "list.csv", f"{header}\na.mp4,run\nb.mp4,run\nc.mp4,jump\n")
    with pytest.raises(ClipTableError, match=r"line 1.*looks like a header.*path and label"):
        read_clips(path)


def test_a_missing_first_clip_is_no_header(videos: Path) -> None:
    path = write(videos / "list.csv", "gone.mp4,swim\na.mp4,run\nb.mp4,run\n")
    assert [clip.label for clip in read_clips(path).clips] == ["swim", "run", "run"]


def test_a_list_of_which_most_clips_are_not_there_is_refused(videos: Path) -> None:
    path = write(videos / "list.csv", "x/1.mp4,run\nx/2.mp4,run\na.mp4,jump\n")
    with pytest.raises(ClipTableError, match=r"2 of 3 clips.*not there.*x/1\.mp4.*relative to the list"):
        read_clips(path)


def test_lists_of_mmaction2_have_the_number_of_frames_before_the_label(frames: Path) -> None:
    path = write(frames / "train.txt", "run/x1 163 1\nrun/x2 87 1\njump/y 7 90 0\n")
    table = read_clips(path)
    assert [(clip.path.relative_to(frames).as_posix(), clip.label) for clip in table.clips] == [
        ("run/x1", "1"),
        ("run/x2", "1"),
        ("jump/y 7", "0"),
    ]
    assert "number of frames" in table.description


def test_folders_of_frames_may_be_listed_without_their_numbers(frames: Path) -> None:
    path = write(frames / "train.txt", "run/x1 1\nrun/x2 1\njump/y 7 0\n")
    assert [clip.path.name for clip in read_clips(path).clips] == ["x1", "x2", "y 7"]


@pytest.mark.parametrize("line", ["run/x1 163 1 5", "v.mp4 3 7"])
def test_several_labels_of_a_clip_are_refused(frames: Path, line: str) -> None:
    write(frames / "v.mp4")
    path = write(frames / "train.txt", f"run/x2 87 1\n{line}\n")
    with pytest.raises(ClipTableError, match="several labels"):
        read_clips(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4\n", r"line 2: 1 cells, but the header has 2 \(path, label\)"),
        ("a.mp4,run\nb.mp4,run,fast\n", r"line 3: 3 cells, but the header has 2"),
        ("a.mp4,\n", r"line 2: the path or the label is empty"),
        (",run\n", r"line 2: the path or the label is empty"),
        ("", "names no clips"),
    ],
)
def test_damaged_rows_of_a_table_are_named(videos: Path, rows: str, message: str) -> None:
    write(videos / "clips.csv", f"path,label\n{rows}")
    with pytest.raises(ClipTableError, match=message):
        read_clips(videos)


@pytest.mark.parametrize("name", ["clips.csv", "list.txt"])
def test_another_encoding_is_named(videos: Path, name: str) -> None:
    path = write(videos / name, "path,label\na.mp4,run\nb.mp4,fußball\n".encode("latin-1"))
    with pytest.raises(ClipTableError, match=r"not text in UTF-8 \(byte 0xdf in line 3\)"):
        read_clips(path)


def test_cells_may_hold_delimiters_and_lines_in_quotes(videos: Path) -> None:
    write(videos / "clips.csv", 'path,label\n"a.mp4","run, then\njump"\n\nb.mp4,run\n')
    assert [clip.label for clip in read_clips(videos).clips] == ["run, then\njump", "run"]
