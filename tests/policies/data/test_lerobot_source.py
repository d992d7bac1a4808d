"""Training samples from a dataset in LeRobot's format v3: those of the file that it was converted from."""

import json
from pathlib import Path

import pytest
import torch

from fibo_robot.envs.demonstrations.hdf5 import DatasetError
from fibo_robot.policies.data.module import DemonstrationData
from tests.envs.demonstrations.opened import opened
from tests.lerobot.demonstrations import write_demonstrations

pytestmark = pytest.mark.parquet


def read(path: Path, cache_gb: float = 0.5) -> DemonstrationData:
    data = DemonstrationData(str(path), action_horizon=4, n_obs_steps=2, cache_gb=cache_gb)
    data.setup("fit")
    return data


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_samples_are_those_of_the_file(tmp_path: Path, cache_gb: float) -> None:
    from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot

    hdf5 = write_demonstrations(tmp_path / "lift.hdf5")
    write_lerobot(hdf5, tmp_path / "v3", "h264")
    data, expected = read(tmp_path / "v3", cache_gb=cache_gb), read(hdf5)
    assert data.task == expected.task and data.train and data.valid and expected.train
    assert (len(data.train), len(data.valid)) == (8, 8)
    found, wanted = (d.train.__getitems__([(n, 0) for n in range(8)]) for d in (data, expected) if d.train)
    assert torch.equal(found["actions"], wanted["actions"]) and torch.equal(found["valid"], wanted["valid"])
    for key, values in wanted["obs"].items():
        if values.dtype == torch.uint8:
            assert (found["obs"][key].int() - values.int()).abs().max() <= 4
        else:
            assert torch.equal(found["obs"][key], values), key
    (demos, sha256) = (data.meta()["dataset"][key] for key in ("demos", "sha256"))
    assert demos == 2 and sha256 != expected.meta()["dataset"]["sha256"]


def test_start_states_stay_known_by_their_seeds(tmp_path: Path) -> None:
    from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot

    hdf5 = write_demonstrations(tmp_path / "lift.hdf5")
    write_lerobot(hdf5, tmp_path / "foreign", "h264")
    assert read(tmp_path / "foreign").meta()["dataset"]["seeds"] == []  # nobody says of which task's
    with opened(hdf5, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        env_args["fibo_robot"]["recording"] = {"episodes": 3, "seed": 7, "noise": 0.1}
        file["data"].attrs["env_args"] = json.dumps(env_args)
    write_lerobot(hdf5, tmp_path / "recorded", "h264")
    assert read(tmp_path / "recorded").meta()["dataset"]["seeds"] == [7, 9]  # of those to train on


def test_actions_of_another_length_are_refused(tmp_path: Path) -> None:
    from fibo_robot.envs.demonstrations.lerobot.read import LeRobotFolder
    from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot

    write_lerobot(write_demonstrations(tmp_path / "lift.hdf5"), tmp_path / "v3", "h264")
    with pytest.raises(DatasetError, match=r"demo_0 .* \(5, 7\), the task takes \(steps, 14\)"):
        LeRobotFolder(tmp_path / "v3").check(["demo_0"], 14, "actions")


def test_a_process_opens_each_mp4_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fibo_robot.envs.demonstrations.lerobot import read as module
    from fibo_robot.envs.demonstrations.lerobot.mp4 import VideoFile
    from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot

    write_lerobot(write_demonstrations(tmp_path / "lift.hdf5"), tmp_path / "v3", "h264")
    opened: list[str] = []

    class Counted(VideoFile):
        def __init__(self, path: Path) -> None:
            opened.append(path.parts[-3])
            super().__init__(path)

    data = read(tmp_path / "v3", cache_gb=0.0)
    monkeypatch.setattr(module, "VideoFile", Counted)
    assert data.train
    for batch in ([0, 5, 2, 7], [6, 1, 1, 3]):
        data.train.__getitems__([(n, 0) for n in batch])
    assert sorted(opened) == ["observation.images.agentview", "observation.images.robot0_eye_in_hand"]
