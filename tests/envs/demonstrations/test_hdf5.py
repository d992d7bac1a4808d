"""Demonstration files: what is refused, and that a file is whole or absent."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.demonstrations.writer import Demonstration, DemonstrationWriter, split_masks, write_part


def demonstration(length: int, value: float) -> Demonstration:
    return Demonstration(
        obs={
            "agentview_image": np.full((length, 8, 8, 3), int(value), np.uint8),
            "robot0_eef_pos": np.full((length, 3), value, np.float32),
        },
        actions=np.full((length, 7), value),
        states=np.full((length, 32), value),
        rewards=np.zeros(length),
        dones=np.zeros(length, np.int64),
        model_file="<mujoco/>",
        attributes={"seed": int(value)},
    )


def write_file(path: Path, count: int = 12) -> Path:
    task = get_task("lift", renderer="egl")
    writer = DemonstrationWriter(path, {"n": count})
    for number in range(count):
        write_part(writer.part(number), demonstration(4 + number, number))
    parts = {f"demo_{number}": number for number in range(count)}
    writer.finish(parts, task.env_args(), split_masks(list(parts)))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5")
    with DemonstrationFile(path) as file:
        assert file.demos == [f"demo_{i}" for i in range(12)]  # by number: demo_2 before demo_10
        assert file.mask("valid") == ["demo_9"]
        assert file.mask("train") == [demo for demo in file.demos if demo != "demo_9"]
        assert file.task() == get_task("lift", renderer="egl")
        assert file.length("demo_11") == 15
        assert file.attributes("demo_3")["seed"] == 3
        assert file.observation("demo_3", "agentview_image").shape == (7, 8, 8, 3)
        np.testing.assert_array_equal(file.actions("demo_3"), np.full((7, 7), 3.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["demos.hdf5"]  # parts are gone


def test_robomimic_itself_reads_the_layout(tmp_path: Path) -> None:
    # The attributes and groups that robomimic's SequenceDataset and env_utils access.
    with h5py.File(write_file(tmp_path / "demos.hdf5", 3), "r") as file:
        assert file["data"].attrs["total"] == sum(
            file[f"data/{d}"].attrs["num_samples"] for d in file["data"]
        )
        env_args = json.loads(file["data"].attrs["env_args"])
        assert (env_args["env_name"], env_args["type"]) == ("Lift", 1)
        assert env_args["env_kwargs"]["controller_configs"][0]["body_parts"]["right"]["type"] == "OSC_POSE"
        assert file["data/demo_0/obs/agentview_image"].dtype == np.uint8


def test_missing_keys_are_named(tmp_path: Path) -> None:
    with DemonstrationFile(write_file(tmp_path / "demos.hdf5", 2)) as file:
        with pytest.raises(DatasetError, match=r"no 'obs/object'.*obs/robot0_eef_pos"):
            file.observation("demo_0", "object")
        with pytest.raises(DatasetError, match=r"no mask 'short'.*train, valid"):
            file.mask("short")


def test_unusable_files_are_refused_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        DemonstrationFile(tmp_path / "none.hdf5")
    whole = write_file(tmp_path / "demos.hdf5").read_bytes()
    (tmp_path / "half.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="truncated"):
        DemonstrationFile(tmp_path / "half.hdf5")
    (tmp_path / "text.hdf5").write_text("demonstrations\n" * 100)
    with pytest.raises(DatasetError, match="no HDF5 file"):
        DemonstrationFile(tmp_path / "text.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(DatasetError, match="not in robomimic's layout"):
        DemonstrationFile(tmp_path / "other.hdf5")


def test_damage_inside_a_file_is_found(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", 2)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs/robot0_eef_pos"]
        file["data/demo_1/obs/robot0_eef_pos"] = np.zeros((2, 3))
    with pytest.raises(DatasetError, match="demo_1 has 5 actions but 2 rows of obs/robot0_eef_pos"):
        DemonstrationFile(path)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
    with pytest.raises(DatasetError, match="demo_1 has no actions"):
        DemonstrationFile(path)


def test_an_interrupted_write_leaves_no_target_and_continues(tmp_path: Path) -> None:
    target = tmp_path / "demos.hdf5"
    writer = DemonstrationWriter(target, {"noise": 0.1})
    write_part(writer.part(0), demonstration(4, 0))
    broken = demonstration(4, 1)
    broken.attributes["seed"] = object()  # type: ignore[index]  # h5py cannot write it
    with pytest.raises(TypeError):
        write_part(writer.part(1), broken)
    again = DemonstrationWriter(target, {"noise": 0.1})
    assert (again.has(0), again.has(1), target.exists()) == (True, False, False)
    with pytest.raises(DatasetError, match="other settings"):
        DemonstrationWriter(target, {"noise": 0.2})
