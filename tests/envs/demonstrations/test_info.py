"""`fibo demos info`: what it says of files made for the test, and what its contact sheet shows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.envs.demonstrations.info import describe_demonstrations, draw_contact_sheet
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, split_masks, write_part

LENGTHS = (5, 9, 3, 7)


def demonstration(length: int, number: int, attributes: Mapping[str, Any]) -> Demonstration:
    actions = np.zeros((length, 7))
    actions[0, 2] = 0.1 * (number + 1)
    actions[-1, 6] = -1.0
    # Two cameras in colours that tell the demonstration, and the step by its blue.
    steps = np.arange(length)[:, None, None]
    front = np.zeros((length, 8, 8, 3), np.uint8)
    front[..., 0], front[..., 2] = 60 * (number + 1), 10 * steps
    wrist = np.zeros((length, 8, 8, 3), np.uint8)
    wrist[..., 1], wrist[..., 2] = 60 * (number + 1), 10 * steps
    return Demonstration(
        obs={
            "agentview_image": front,
            "robot0_eye_in_hand_image": wrist,
            "robot0_eef_pos": np.zeros((length, 3), np.float32),
        },
        actions=actions,
        states=np.zeros((length, 32)),
        rewards=np.eye(1, length, length - 1)[0] * (number != 1),
        dones=np.zeros(length, np.int64),
        model_file="<mujoco/>",
        attributes=attributes,
    )


def write_file(path: Path, marked: bool = True) -> Path:
    writer = DemonstrationWriter(path, {})
    for number, length in enumerate(LENGTHS):
        attributes = {"seed": 20 + 2 * number, "success": True} if marked else {}
        write_part(writer.part(number), demonstration(length, number, attributes))
    parts = {f"demo_{number}": number for number in range(len(LENGTHS))}
    env_args = get_task("can", renderer="egl").env_args()
    if marked:
        env_args["fibo_robot"]["recording"] = {"episodes": 4, "seed": 20, "noise": 0.1}
    writer.finish(parts, env_args, split_masks(list(parts), every=4))
    return path


def test_what_a_file_holds_is_told(tmp_path: Path) -> None:
    info = describe_demonstrations(write_file(tmp_path / "demos.hdf5"))
    assert info.env_name == "PickPlaceCan"
    assert {"robosuite", "mujoco", "fibo-robot"} <= set(info.versions)
    assert (info.demonstrations, info.steps) == (4, 24)
    assert (info.shortest, info.median_length, info.longest) == (3, 6.0, 9)
    assert (info.successes, info.tries) == (4, 7)  # seeds 20 to 26
    assert info.action_low == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    assert info.action_high == (0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0)
    assert info.masks == {"train": 3, "valid": 1}
    assert info.observations["agentview_image"].shape == (8, 8, 3)
    assert (info.observations["robot0_eef_pos"].shape, info.observations["robot0_eef_pos"].dtype) == (
        (3,),
        "float32",
    )


def test_success_without_a_mark_is_read_from_the_rewards(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", marked=False)
    info = describe_demonstrations(path)
    assert (info.successes, info.tries) == (3, None)  # demo_1 has no reward
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/rewards"]
    assert describe_demonstrations(path).successes is None


def test_a_sheet_shows_first_middle_and_last_frames_of_each_camera(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5")
    draw_contact_sheet(path, tmp_path / "sheet.png", demonstrations=2)
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    shown = []  # centres of the frames, 160 pixels wide, from left to right in two rows
    for top in (28, 28 + 178):
        shown.append([tuple(int(v) for v in sheet[top + 80, 80 + 164 * column]) for column in range(6)])
    assert shown[0] == [(60, 0, 0), (60, 0, 20), (60, 0, 40), (0, 60, 0), (0, 60, 20), (0, 60, 40)]
    assert shown[1] == [(240, 0, 0), (240, 0, 30), (240, 0, 60), (0, 240, 0), (0, 240, 30), (0, 240, 60)]
    assert sheet.shape == (14 + 2 * 178, 6 * 164, 3)


def test_a_file_without_pictures_has_no_sheet(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as file:
        for number in range(len(LENGTHS)):
            del file[f"data/demo_{number}/obs"]
    info = describe_demonstrations(path)
    assert info.observations == {} and "none: a raw file" in info.to_text()
    with pytest.raises(DatasetError, match=r"no pictures.*fibo demos convert"):
        draw_contact_sheet(path, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_demonstrations_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_3/obs/robot0_eef_pos"]
        file["data/demo_3/obs/robot0_eef_pos"] = np.zeros((7, 4), np.float32)
    with pytest.raises(DatasetError, match=r"robot0_eef_pos .* \(3,\) in demo_0 and \(4,\) in demo_3"):
        describe_demonstrations(path)
    with h5py.File(path, "r+") as file:
        del file["data/demo_3/obs/robot0_eef_pos"]
    with pytest.raises(DatasetError, match=r"demo_3 .* no 'obs/robot0_eef_pos'"):
        describe_demonstrations(path)
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/actions"]
        file["data/demo_2/actions"] = np.zeros((3, 14))
    with pytest.raises(DatasetError, match="7 entries in demo_0 and 14 in demo_2"):
        describe_demonstrations(path)


def test_a_demonstration_without_steps_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1"]
        file["data/demo_1/actions"] = np.zeros((0, 7))
    with pytest.raises(DatasetError, match=r"demo_1 .* no steps"):
        describe_demonstrations(path)


def test_the_command_prints_lines_or_json_and_draws(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5")
    sheet = tmp_path / "sheets" / "can.png"
    told = CliRunner().invoke(app, ["demos", "info", str(path), "--sheet", str(sheet)])
    assert told.exit_code == 0, told.output
    assert "4 of 7 tries" in told.output and "shortest 3, median 6, longest 9" in told.output
    assert "train (3), valid (1)" in told.output and "8x8x3 uint8" in told.output
    assert Image.open(sheet).format == "PNG"
    as_json = CliRunner().invoke(app, ["demos", "info", str(path), "--json", "-"])
    seen = json.loads(as_json.output)["observations"]["agentview_image"]
    assert seen == {
        "shape": [8, 8, 3],
        "dtype": "uint8",
    }


def test_a_bad_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "text.hdf5").write_text("demonstrations\n" * 100)
    with pytest.raises(DatasetError, match="truncated or no HDF5 file"):
        describe_demonstrations(tmp_path / "text.hdf5")
    with pytest.raises(DatasetError, match="does not exist"):
        draw_contact_sheet(tmp_path / "none.hdf5", tmp_path / "sheet.png")
