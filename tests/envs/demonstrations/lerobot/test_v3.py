"""LeRobot's dataset format v3, written and read without LeRobot."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet", reason="no pyarrow here: pip install 'fibo-robot[parquet]'")

from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile  # noqa: E402
from fibo_robot.envs.demonstrations.lerobot import layout, statistics  # noqa: E402
from fibo_robot.envs.demonstrations.lerobot.read import LeRobotFolder  # noqa: E402
from fibo_robot.envs.demonstrations.lerobot.to_hdf5 import lerobot_to_hdf5  # noqa: E402
from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot  # noqa: E402
from fibo_robot.envs.tasks import get_task  # noqa: E402
from tests.envs.demonstrations.opened import opened  # noqa: E402
from tests.lerobot.demonstrations import CAMERAS, LENGTHS, level, write_demonstrations  # noqa: E402
from tests.video.command_line import run  # noqa: E402

pytestmark = pytest.mark.parquet


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demonstrations(tmp_path_factory.mktemp("v3") / "lift.hdf5")


@pytest.fixture(scope="module", params=["av1", "h264"])
def folder(hdf5: Path, request: pytest.FixtureRequest) -> Path:
    target = hdf5.with_name(request.param)
    assert write_lerobot(hdf5, target, request.param) == len(LENGTHS)
    return target


def test_there_and_back_is_lossless_but_for_pictures(hdf5: Path, folder: Path, tmp_path: Path) -> None:
    assert lerobot_to_hdf5(folder, tmp_path / "back.hdf5") == len(LENGTHS)
    with DemonstrationFile(hdf5) as before, DemonstrationFile(tmp_path / "back.hdf5") as after:
        assert after.demos == before.demos and after.env_args == before.env_args
        assert {key: after.mask(key) for key in after.masks} == {
            "train": ["demo_0", "demo_2"],
            "valid": ["demo_1"],
        }
        for demo in before.demos:
            for key in ("actions", "expert_actions", "states", "rewards", "dones"):
                old, new = before.array(demo, key), after.array(demo, key)
                assert new.dtype == old.dtype, key
                assert np.array_equal(new[:], old[:]), key
            assert after.attributes(demo) == before.attributes(demo)
            assert after.obs_keys == before.obs_keys
            for key in before.obs_keys:
                if key not in CAMERAS:
                    assert np.array_equal(after.observation(demo, key), before.observation(demo, key))


def test_going_back_replaces_nothing_and_makes_an_hdf5_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.hdf5").write_bytes(b"hours of work")
    with pytest.raises(DatasetError, match="exists already; delete it or choose another output"):
        lerobot_to_hdf5(folder, tmp_path / "mine.hdf5")
    assert (tmp_path / "mine.hdf5").read_bytes() == b"hours of work"
    for name in ("other", folder):  # a folder's name, and the dataset itself
        with pytest.raises(DatasetError, match=r"name it \.hdf5"):
            lerobot_to_hdf5(folder, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.hdf5"]


def test_every_step_has_its_own_picture(folder: Path) -> None:
    dataset = LeRobotFolder(folder)
    assert dataset.cameras == list(CAMERAS)
    for number, demo in enumerate(dataset.demos):
        for key in CAMERAS:
            pictures = dataset.pictures(demo, key)
            assert pictures.shape == (LENGTHS[number], 84, 84, 3)
            for step, picture in enumerate(pictures):
                assert abs(picture.astype(int) - level(number, step)).max() <= 4
    into = np.empty((2, 84, 84, 3), np.uint8)
    dataset.read_pictures("demo_1", CAMERAS[0], 4, into)
    assert abs(int(into[0].mean()) - level(1, 4)) <= 4 and abs(int(into[1].mean()) - level(1, 5)) <= 4


def test_vectors_are_found_under_both_names(hdf5: Path, folder: Path) -> None:
    dataset = LeRobotFolder(folder)
    with DemonstrationFile(hdf5) as file:
        for key in ("robot0_eef_pos", "robot0_gripper_qpos", "object"):
            assert np.array_equal(dataset.vectors("demo_1", key), file.observation("demo_1", key))
        assert np.array_equal(dataset.actions("demo_1"), file.actions("demo_1"))
        assert np.array_equal(dataset.column("demo_1", "action"), file.actions("demo_1").astype(np.float32))
    names = dataset.features[layout.STATE].names
    assert names is not None and names[0] == "robot0_eef_pos.0" and len(names) == 9
    assert dataset.task() == get_task("lift", renderer="osmesa")
    assert dataset.instruction("demo_0") == "lift the cube"
    with pytest.raises(DatasetError, match="no observation 'robot1_eef_pos'"):
        dataset.vectors("demo_0", "robot1_eef_pos")


def test_offsets_and_counters_are_as_lerobot_counts(folder: Path) -> None:
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, 5, 13]
    assert [row["length"] for row in rows] == list(LENGTHS)
    at = "videos/observation.images.agentview"
    assert [row[f"{at}/from_timestamp"] for row in rows] == [0.0, 0.25, 0.65]
    steps = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    assert steps["index"].to_pylist() == list(range(16))
    assert steps["frame_index"].to_pylist() == [step for length in LENGTHS for step in range(length)]
    np.testing.assert_allclose(steps["timestamp"].to_numpy()[:5], np.arange(5) / 20)


def test_statistics_are_exact(hdf5: Path, folder: Path) -> None:
    stats = json.loads((folder / "meta/stats.json").read_text())
    with DemonstrationFile(hdf5) as file:
        actions = np.concatenate([file.actions(demo) for demo in file.demos]).astype(np.float32)
        pictures = np.concatenate([file.observation(demo, CAMERAS[0]) for demo in file.demos]) / 255
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(actions, 0.9, axis=0), rtol=1e-5)
    found = stats["observation.images.agentview"]
    np.testing.assert_allclose(np.ravel(found["std"]), pictures.std((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found["max"]), pictures.max())
    assert np.shape(found["mean"]) == (3, 1, 1) and found["count"] == [16]


def test_quantiles_of_pictures_are_levels_that_occur() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3)).astype(np.uint8)
    found = statistics.of_pictures(statistics.colour_counts(pictures), 2)
    for name, share in statistics.QUANTILES.items():
        flat = pictures.reshape(-1, 3) / 255
        expected = np.quantile(flat, share, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(np.ravel(found[name]), expected)


def test_videos_and_tables_go_on_in_further_files(
    hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "VIDEO_FILE_MB", 0)
    monkeypatch.setattr(layout, "DATA_FILE_MB", 0)
    monkeypatch.setattr(layout, "FILES_PER_CHUNK", 2)
    write_lerobot(hdf5, tmp_path / "many", "h264")
    files = sorted(path.parent.name + "/" + path.name for path in (tmp_path / "many/data").rglob("*.parquet"))
    assert files == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    dataset = LeRobotFolder(tmp_path / "many")
    for number, demo in enumerate(dataset.demos):
        assert len(dataset.actions(demo)) == LENGTHS[number]
        assert (
            abs(int(dataset.pictures(demo, CAMERAS[1])[-1].mean()) - level(number, LENGTHS[number] - 1)) <= 4
        )


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        # One that stands before others in `observation.state` would move them.
        ("obs/robot0_eef_pos", np.zeros((8, 6)), r"robot0_eef_pos' has shape \(6,\), the task has \(3,\)"),
        ("obs/agentview_image", np.zeros((8, 42, 42, 3), np.uint8), r"\(42, 42, 3\), other demonstrations"),
        ("note", np.zeros(3), "3 rows of note, type float64.*each of its 8 steps"),
        ("note", np.array([b"good"] * 8), r"type \|S4: LeRobot's format takes numbers"),
    ],
)
def test_what_does_not_fit_the_format_is_named(
    hdf5: Path, tmp_path: Path, name: str, array: np.ndarray, words: str
) -> None:
    with opened(Path(shutil.copy(hdf5, tmp_path / "demos.hdf5")), "r+") as file:
        demo = file["data/demo_1"]
        if name in demo:
            del demo[name]
        demo[name] = array
    with pytest.raises(DatasetError, match=words):
        write_lerobot(tmp_path / "demos.hdf5", tmp_path / "v3", "h264")
    assert not (tmp_path / "v3").exists()


def test_observations_that_the_task_does_not_have_are_told_to_be_left_out(hdf5: Path, tmp_path: Path) -> None:
    with opened(Path(shutil.copy(hdf5, tmp_path / "demos.hdf5")), "r+") as file:
        for demo, length in enumerate(LENGTHS):
            file[f"data/demo_{demo}/obs/robot0_joint_pos"] = np.zeros((length, 7))
    with pytest.warns(UserWarning, match="has no robot0_joint_pos: left out of .*v3"):
        write_lerobot(tmp_path / "demos.hdf5", tmp_path / "v3", "h264")


def test_command_converts_both_ways(hdf5: Path, tmp_path: Path) -> None:
    status, out, _ = run("demos", "convert", hdf5, "--output", tmp_path / "v3", "--codec", "h264")
    assert status == 0 and "3 demonstrations" in out
    status, _, _ = run("demos", "convert", tmp_path / "v3", "--output", tmp_path / "back.hdf5")
    assert status == 0
    with DemonstrationFile(tmp_path / "back.hdf5") as file:
        assert file.demos == ["demo_0", "demo_1", "demo_2"]


def test_what_is_missing_or_of_another_version_is_said(hdf5: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset of LeRobot"):
        LeRobotFolder(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DatasetError, match="name another folder"):
        write_lerobot(hdf5, tmp_path / "mine")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    old = copy("old")
    info = json.loads((old / layout.INFO).read_text())
    (old / layout.INFO).write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(DatasetError, match=r"v2\.1"):
        LeRobotFolder(old)
    shutil.rmtree(copy("no_episodes") / "meta" / "episodes")
    with pytest.raises(DatasetError, match="files are missing"):
        LeRobotFolder(tmp_path / "no_episodes")
    video = copy("cut") / "videos/observation.images.agentview/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"file-000\.mp4"):
        LeRobotFolder(tmp_path / "cut").pictures("demo_2", CAMERAS[0])
    foreign = copy("foreign")
    (foreign / layout.OUR_TASK).unlink()
    assert LeRobotFolder(foreign).demos == ["demo_0", "demo_1", "demo_2"]
    with pytest.raises(DatasetError, match="does not say which simulated task"):
        lerobot_to_hdf5(foreign, tmp_path / "f.hdf5")
