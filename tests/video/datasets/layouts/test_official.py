"""Public data sets are recognised as they are published, and their official splits are kept."""

import json
from collections import Counter
from pathlib import Path

import pytest

from fibo_robot.video.datasets.recognise import read_clips
from fibo_robot.video.datasets.table import ClipTable, ClipTableError


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(table: ClipTable, root: Path) -> list[tuple[str, str, str]]:
    return [(clip.path.relative_to(root).as_posix(), clip.label, clip.split) for clip in table.clips]


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    """Two classes, two splits; clips were converted to mp4 in one of them."""
    lists = tmp_path / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 Archery\n2 Bowling\n")
    write(lists / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 1\r\nBowling/v_Bowling_g08_c01.avi 2\r\n")
    write(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi\nBowling/v_Bowling_g01_c01.avi\n")
    write(lists / "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 1\n")
    write(lists / "testlist02.txt", "Bowling/v_Bowling_g08_c01.avi\n")
    for group in ("g01", "g08"):
        write(tmp_path / "UCF-101" / "Archery" / f"v_Archery_{group}_c01.avi")
        write(tmp_path / "UCF-101" / "Bowling" / f"v_Bowling_{group}_c01.mp4")
    return tmp_path


def test_ucf101_split_files_are_followed(ucf101: Path) -> None:
    table = read_clips(ucf101)
    assert rows(table, ucf101 / "UCF-101") == [
        ("Archery/v_Archery_g08_c01.avi", "Archery", "train"),
        ("Bowling/v_Bowling_g08_c01.mp4", "Bowling", "train"),
        ("Archery/v_Archery_g01_c01.avi", "Archery", "test"),
        ("Bowling/v_Bowling_g01_c01.mp4", "Bowling", "test"),
    ]
    assert "UCF-101, split_1 of split_1, split_2" in table.description
    second = read_clips(ucf101, protocol="split_2")
    assert [(clip.label, clip.split) for clip in second.clips] == [("Archery", "train"), ("Bowling", "test")]


def test_unknown_protocol_is_an_error_that_names_those_there_are(ucf101: Path) -> None:
    with pytest.raises(ClipTableError, match=r"'split_4'.*Did you mean.*It has split_1, split_2"):
        read_clips(ucf101, protocol="split_4")
    write(ucf101 / "own" / "run" / "1.mp4")
    with pytest.raises(ClipTableError, match="no protocols"):
        read_clips(ucf101 / "own", protocol="split_1")


def test_listed_clips_that_are_missing_are_counted_and_stay_in_the_table(ucf101: Path) -> None:
    gone = ucf101 / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi"
    gone.unlink()
    table = read_clips(ucf101)
    assert "1 of 4 listed clips are missing" in table.description
    assert gone in [clip.path for clip in table.clips]
    for file in (ucf101 / "UCF-101").rglob("*.*"):
        file.unlink()
    with pytest.raises(ClipTableError, match="None of 4 listed clips"):
        read_clips(ucf101)


def test_hmdb51_marks_say_train_test_or_unused(tmp_path: Path) -> None:
    lists = tmp_path / "testTrainMulti_7030_splits"
    write(lists / "brush_hair_test_split1.txt", "a b.avi 1 \n#1_c.d.avi 2 \nunused.avi 0 \n")
    write(lists / "cartwheel_test_split1.txt", "wheel.avi 2\n")
    write(lists / "brush_hair_test_split2.txt", "unused.avi 1\n")
    for name in (
        "brush_hair/a b.avi",
        "brush_hair/#1_c.d.avi",
        "brush_hair/unused.avi",
        "cartwheel/wheel.avi",
    ):
        write(tmp_path / "hmdb51_org" / name)
    table = read_clips(tmp_path)
    assert rows(table, tmp_path / "hmdb51_org") == [
        ("brush_hair/a b.avi", "brush_hair", "train"),
        ("brush_hair/#1_c.d.avi", "brush_hair", "test"),
        ("cartwheel/wheel.avi", "cartwheel", "test"),
    ]
    assert "HMDB51, split_1" in table.description and "1 clips unused" in table.description
    assert rows(read_clips(tmp_path, protocol="split_2"), tmp_path / "hmdb51_org") == [
        ("brush_hair/unused.avi", "brush_hair", "train")
    ]
    write(lists / "cartwheel_test_split1.txt", "wheel.avi 3\n")
    with pytest.raises(ClipTableError, match="0, 1 or 2"):
        read_clips(tmp_path)


@pytest.fixture(params=["", "something-something-v2-"])
def something(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    def clip(number: int, template: str, **more: object) -> dict:
        return {"id": str(number), "label": "holding a cup", "template": template, **more}

    lists = {
        "labels": {"Holding something": "0", "Moving something away from something": "1"},
        "train": [clip(78687, "Holding [something]"), clip(5, "Moving [something] away from [something]")],
        "validation": [clip(6, "Holding [something]")],
        "test": [{"id": "7"}],
    }
    for name, content in lists.items():
        write(tmp_path / "labels" / f"{request.param}{name}.json", json.dumps(content))
    return tmp_path


def test_something_something_names_classes_without_brackets(something: Path) -> None:
    clips = something / "20bn-something-something-v2"
    for number in (78687, 5, 6, 7):
        write(clips / f"{number}.webm")
    table = read_clips(something)
    assert rows(table, clips) == [
        ("78687.webm", "Holding something", "train"),
        ("5.webm", "Moving something away from something", "train"),
        ("6.webm", "Holding something", "validation"),
    ]


def test_something_something_as_folders_of_pictures(something: Path) -> None:
    for number in (78687, 5, 6):
        write(something / "frames" / str(number) / "00001.jpg")
    assert [clip.path for clip in read_clips(something).clips] == [
        something / "frames" / name for name in ("78687", "5", "6")
    ]


def test_something_something_lists_must_agree(something: Path) -> None:
    write(something / "videos" / "5.webm")
    labels = next((something / "labels").glob("*labels.json"))
    labels.write_text('{"Holding something": "0"}')
    with pytest.raises(ClipTableError, match="Moving something away from something"):
        read_clips(something)
    labels.write_text("{")
    with pytest.raises(ClipTableError, match="no JSON"):
        read_clips(something)


KINETICS = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_kinetics_annotations_find_clips_by_id_and_seconds(tmp_path: Path, delimiter: str) -> None:
    train = KINETICS + "playing chess,-abc_DEF123,10,20,train\nabseiling,gone1234567,7,17,train\n"
    write(tmp_path / "annotations" / "train.csv", train.replace(",", delimiter))
    write(tmp_path / "annotations" / "val.csv", KINETICS + "abseiling,xyz,100,110,val\n")
    write(tmp_path / "annotations" / "test.csv", "youtube_id,time_start,time_end,split\nq,1,11,test\n")
    chess = write(tmp_path / "train" / "playing chess" / "-abc_DEF123_000010_000020.mp4")
    other = write(tmp_path / "val" / "xyz_000100_000110.mkv")
    table = read_clips(tmp_path)
    assert [(clip.path, clip.label, clip.split) for clip in table.clips] == [
        (chess, "playing chess", "train"),
        (tmp_path / "train" / "gone1234567_000007_000017.mp4", "abseiling", "train"),
        (other, "abseiling", "val"),
    ]
    assert "Kinetics" in table.description and repr(delimiter) in table.description
    assert "1 of 3 listed clips are missing" in table.description
    assert "test.csv left out, without labels" in table.description


def test_one_kinetics_annotation_file_looks_beside_itself(tmp_path: Path) -> None:
    clip = write(tmp_path / "clips" / "xyz_000001_000011.mp4")
    table = read_clips(write(tmp_path / "kinetics.csv", KINETICS + "abseiling,xyz,1,11,validate\n"))
    assert [(c.path, c.label, c.split) for c in table.clips] == [(clip, "abseiling", "validate")]
    write(tmp_path / "kinetics.csv", KINETICS + "abseiling,xyz,one,11,validate\n")
    with pytest.raises(ClipTableError, match=r"line 2.*numbers of seconds"):
        read_clips(tmp_path / "kinetics.csv")


def test_a_list_per_split_gives_the_split(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "videos/1.mp4 3\nvideos/2.mp4 0\n")
    write(tmp_path / "val.csv", "videos/3.mp4 3\n")
    for number in (1, 2, 3):
        write(tmp_path / "videos" / f"{number}.mp4")
    table = read_clips(tmp_path)
    assert rows(table, tmp_path) == [
        ("videos/1.mp4", "3", "train"),
        ("videos/2.mp4", "0", "train"),
        ("videos/3.mp4", "3", "val"),
    ]
    assert "delimiter ' '" in table.description


def test_smarthome_splits_by_subject_or_camera(tmp_path: Path) -> None:
    # The subjects and cameras of Das et al., ICCV 2019: one clip of each subject by each camera.
    for subject in (*range(2, 8), *range(9, 21), 25):
        for camera in range(1, 8):
            write(tmp_path / "mp4" / f"Cook.Stir_p{subject:02d}_r00_v02_c{camera:02d}.mp4")
    table = read_clips(tmp_path)
    assert table.labels == ["Cook.Stir"]
    train = {int(clip.path.stem.split("_")[1][1:]) for clip in table.part("train")}
    assert train == {3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25}
    assert len(table.part("train")) + len(table.part("test")) == len(table.clips) == 19 * 7

    def cameras(protocol: str) -> dict[str, set[str]]:
        clips = read_clips(tmp_path, protocol=protocol).clips
        return {
            part: {c.path.stem[-2:] for c in clips if c.split == part} for part in ("train", "val", "test")
        }

    assert cameras("cross_view1") == {"train": {"01"}, "val": {"05"}, "test": {"02"}}
    assert cameras("cross_view2") == {"train": {"01", "03", "04", "06", "07"}, "val": {"05"}, "test": {"02"}}
    assert "76 clips unused" in read_clips(tmp_path, protocol="cross_view1").description


def ntu(folder: Path, setup: int, camera: int, subject: int, action: int) -> Path:
    return write(folder / f"S{setup:03d}C{camera:03d}P{subject:03d}R001A{action:03d}_rgb.avi")


def test_ntu60_has_40_subjects_in_two_halves_and_three_cameras(tmp_path: Path) -> None:
    for subject in range(1, 41):
        for camera in (1, 2, 3):
            ntu(tmp_path, 1, camera, subject, 60)
    table = read_clips(tmp_path)
    assert table.labels == ["A060 walking apart from each other"] and "NTU RGB+D 60" in table.description
    assert Counter(clip.split for clip in table.clips) == {"train": 60, "test": 60}
    view = read_clips(tmp_path, protocol="cross_view")
    assert {(clip.path.name[5:8], clip.split) for clip in view.clips} == {
        ("001", "test"),
        ("002", "train"),
        ("003", "train"),
    }
    with pytest.raises(ClipTableError, match="cross_subject, cross_view"):
        read_clips(tmp_path, protocol="cross_setup")


def test_ntu120_has_106_subjects_and_32_setups(tmp_path: Path) -> None:
    for subject in range(1, 107):
        ntu(tmp_path, 1 + subject % 32, 1, subject, 61 + subject % 60)
    table = read_clips(tmp_path)
    assert "NTU RGB+D 120" in table.description
    assert [label[:4] for label in table.labels] == [f"A{number:03d}" for number in range(61, 121)]
    assert table.labels[0] == "A061 put on headphone" and "rock-paper-scissors" in table.labels[-1]
    assert Counter(clip.split for clip in table.clips) == {"train": 53, "test": 53}
    setups = read_clips(tmp_path, protocol="cross_setup")
    assert {int(clip.path.name[1:4]) % 2 == 0 for clip in setups.part("train")} == {True}
    assert {int(clip.path.name[1:4]) % 2 == 0 for clip in setups.part("test")} == {False}


NW_UCLA = ["a{a:02d}/v0{v}_s01_e00.avi", "all/a{a:02d}_s01_e00_v0{v}.mp4", "view_{v}/a{a:02d}_s01_e00.mp4"]


@pytest.mark.parametrize("name", NW_UCLA)
def test_nw_ucla_tests_on_one_camera(tmp_path: Path, name: str) -> None:
    of_camera = {v: {write(tmp_path / name.format(a=a, v=v)) for a in (1, 12)} for v in (1, 2, 3)}
    table = read_clips(tmp_path)
    assert (
        table.labels == ["a01 pick up with one hand", "a12 carry"]
        and "NW-UCLA, cross_view3" in table.description
    )
    assert {clip.path for clip in table.part("test")} == of_camera[3]
    assert {clip.path for clip in table.part("train")} == of_camera[1] | of_camera[2]
    assert {clip.path for clip in read_clips(tmp_path, protocol="cross_view2").part("test")} == of_camera[2]


def test_files_that_break_a_naming_scheme_are_named(tmp_path: Path) -> None:
    for subject in (1, 2, 3):
        ntu(tmp_path, 1, 1, subject, 1)
    write(tmp_path / "holiday.mp4")
    with pytest.raises(ClipTableError, match=r"1 of 4 clips.*holiday\.mp4"):
        read_clips(tmp_path)
