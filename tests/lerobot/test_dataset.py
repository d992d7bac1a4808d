"""What is written here opens in LeRobot's own LeRobotDataset frame for frame, and the other way round."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="no LeRobot here: docs/lerobot.md")

from fibo_robot.envs.demonstrations.hdf5 import DemonstrationFile
from fibo_robot.envs.demonstrations.lerobot import layout
from fibo_robot.envs.demonstrations.lerobot.mp4 import Codec
from fibo_robot.envs.demonstrations.lerobot.read import LeRobotFolder
from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot
from tests.lerobot.demonstrations import CAMERAS, LENGTHS, write_demonstrations

pytestmark = pytest.mark.lerobot


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def encoder(codec: str) -> dict[str, Any]:
    """How LeRobot is asked for a codec: by a word in 0.4, by an object in 0.6."""
    try:
        from lerobot.configs.video import RGBEncoderConfig  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {"vcodec": codec}
    return {"rgb_encoder": RGBEncoderConfig(vcodec=codec)}


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_lerobot_opens_what_is_written_here(tmp_path: Path, codec: Codec) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

    hdf5 = write_demonstrations(tmp_path / "lift.hdf5")
    write_lerobot(hdf5, tmp_path / "v3", codec)
    theirs = LeRobotDataset("owner/lift", root=tmp_path / "v3", video_backend="pyav")
    ours = LeRobotFolder(tmp_path / "v3")
    assert (theirs.num_episodes, theirs.num_frames, theirs.fps) == (len(LENGTHS), sum(LENGTHS), 20)
    pictures = {key: np.concatenate([ours.pictures(demo, key) for demo in ours.demos]) for key in CAMERAS}
    with DemonstrationFile(hdf5) as file:
        actions = np.concatenate([file.actions(demo) for demo in file.demos])
        hands = np.concatenate([file.observation(demo, "robot0_eef_pos") for demo in file.demos])
    for number in range(len(theirs)):
        item = theirs[number]
        assert item["task"] == "lift the cube"
        np.testing.assert_array_equal(item["action"].numpy(), actions[number].astype(np.float32))
        np.testing.assert_array_equal(item["observation.state"][:3].numpy(), hands[number])
        for key in CAMERAS:
            seen = (item[layout.image_key(key)] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            assert abs(seen.astype(int) - pictures[key][number]).max() <= 2  # converters round differently
    assert set(theirs.meta.stats["action"]) >= {"min", "max", "mean", "std", "q01", "q99"}


def test_lerobot_reads_windows_over_time_from_it(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

    write_lerobot(write_demonstrations(tmp_path / "lift.hdf5"), tmp_path / "v3", "h264")
    steps = {"action": [0.0, 0.05, 0.1], layout.image_key(CAMERAS[0]): [-0.05, 0.0]}
    root = tmp_path / "v3"
    dataset = LeRobotDataset("owner/lift", root=root, delta_timestamps=steps, video_backend="pyav")
    item = dataset[LENGTHS[0] - 1]  # the last step of the first episode
    assert item["action"].shape == (3, 7) and item["action_is_pad"].tolist() == [False, True, True]
    assert item[layout.image_key(CAMERAS[0])].shape == (2, 3, 84, 84)


@pytest.mark.parametrize("codec", ["libsvtav1", "h264"])
def test_what_lerobot_writes_is_read_here(tmp_path: Path, codec: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

    key = "observation.images.front"
    features = {
        key: {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
        "action": {"dtype": "float32", "shape": (2,), "names": {"axes": ["x", "y"]}},
    }
    root = tmp_path / "theirs"
    dataset = LeRobotDataset.create("owner/real", fps=10, features=features, root=root, **encoder(codec))
    lengths = (6, 9, 4)
    for episode, length in enumerate(lengths):
        for step in range(length):
            frame = np.full((64, 96, 3), 20 + 8 * step + 60 * episode, np.uint8)
            state = np.array([episode, step, 0.5], np.float32)
            action = np.array([step, episode], np.float32)
            task = f"task {episode % 2}"
            dataset.add_frame({key: frame, "observation.state": state, "action": action, "task": task})
        dataset.save_episode()
    dataset.finalize()
    ours = LeRobotFolder(root)
    assert ours.demos == ["demo_0", "demo_1", "demo_2"] and ours.cameras == ["front_image"]
    for episode, demo in enumerate(ours.demos):
        steps = np.arange(lengths[episode])
        assert ours.instruction(demo) == f"task {episode % 2}"
        np.testing.assert_array_equal(ours.actions(demo)[:, 0], steps)
        np.testing.assert_array_equal(ours.column(demo, "observation.state")[:, 0], episode)
        grey = ours.pictures(demo, "front_image").mean((1, 2, 3))
        np.testing.assert_allclose(grey, 20 + 8 * steps + 60 * episode, atol=3)
