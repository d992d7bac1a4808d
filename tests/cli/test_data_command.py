"""`fibo data`: the catalogue names what the readers recognise, and its commands compose."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.training.config import compose_config
from fibo_robot.video.datasets.catalogue import DATASETS, PublicDataset, UnknownDatasetError, find_dataset
from fibo_robot.video.datasets.recognise import read_clips


def test_list_shows_every_data_set() -> None:
    shown = CliRunner().invoke(app, ["data", "list"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(dataset.name in shown.output for dataset in DATASETS)
    assert "13,320" in shown.output


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_show_tells_page_folder_and_a_command_that_composes(dataset: PublicDataset) -> None:
    shown = CliRunner().invoke(app, ["data", "show", dataset.name])
    assert shown.exit_code == 0
    assert dataset.page in shown.output and dataset.tree in shown.output
    (line,) = (line for line in shown.output.splitlines() if "fibo train" in line)
    config = compose_config(line.split("fibo train ")[1].split())
    assert config.data.root == dataset.name


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownDatasetError, match="Did you mean 'ucf101'"):
        find_dataset("ucf-101")


# One clip of each part that the command asks for, laid out as `fibo data show` says.
LAYOUTS = {
    "kinetics400": {
        "annotations/train.csv": "label,youtube_id,time_start,time_end,split\nrun,-abc_DEF123,10,20,train\n",
        "annotations/val.csv": "label,youtube_id,time_start,time_end,split\nrun,x,0,10,val\n",
        "train/-abc_DEF123_000010_000020.mp4": "",
        "val/x_000000_000010.mp4": "",
    },
    "ssv2": {
        "labels/labels.json": '{"Holding something": "0"}',
        "labels/train.json": '[{"id": "78687", "template": "Holding [something]"}]',
        "labels/validation.json": '[{"id": "2", "template": "Holding [something]"}]',
        "20bn-something-something-v2/78687.webm": "",
        "20bn-something-something-v2/2.webm": "",
    },
    "ucf101": {
        "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\n",
        "ucfTrainTestlist/testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
        "UCF-101/Archery/v_Archery_g01_c01.avi": "",
        "UCF-101/Archery/v_Archery_g08_c01.avi": "",
    },
    "hmdb51": {
        "testTrainMulti_7030_splits/brush_hair_test_split1.txt": "a.avi 1\nb.avi 2\n",
        "hmdb51_org/brush_hair/a.avi": "",
        "hmdb51_org/brush_hair/b.avi": "",
    },
    "smarthome": {f"mp4/Cook.Cleandishes_p{p}_r00_v02_c03.mp4": "" for p in ("02", "03")},
    "ntu60": {f"rgb/S001C001P00{p}R001A001_rgb.avi": "" for p in (1, 3)},
    "ntu120": {f"rgb/S0{s}C001P008R001A061_rgb.avi": "" for s in (18, 19)},
    "nw_ucla": {f"multiview_action_videos/a01/v0{v}_s01_e00.avi": "" for v in (1, 2, 3)},
    "tennis": {"clips.csv": "path,label,session,fold\na.mp4,serve,3,0\nb.mp4,serve,4,1\n"},
}


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_expected_folder_is_read_with_the_command_that_is_shown(
    tmp_path: Path, dataset: PublicDataset
) -> None:
    for name, content in LAYOUTS[dataset.name].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    data = compose_config(dataset.train_command.split()[2:]).data
    table = read_clips(tmp_path, data.split_column, data.protocol)
    assert "missing" not in table.description
    train = table.part(data.train_split, exclude=data.valid_split)
    assert train and not set(train) & set(table.part(data.valid_split))


def test_check_tells_clips_that_have_no_class_and_its_status(tmp_path: Path) -> None:
    for name in ("run/1.mp4", "top.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no video")
    checked = tmp_path / "out" / "checked.csv"
    shown = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--output", str(checked)])
    assert shown.exit_code == 3
    assert "2 clips" in shown.output and "1 clips outside of class folders" in shown.output
    assert "top.mp4" in checked.read_text()
