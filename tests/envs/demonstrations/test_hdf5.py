"""Reading demonstration files: what is refused, and when a file is looked at."""

import json
import os
import pickle
from functools import partial
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.demonstrations import pool
from fibo_robot.envs.demonstrations.hdf5 import DatasetError, DemonstrationFile
from fibo_robot.envs.tasks import Task
from tests.envs.demonstrations.opened import opened
from tests.envs.demonstrations.written import write_file


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
    with opened(write_file(tmp_path / "demos.hdf5", 3), "r") as file:
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
    with opened(tmp_path / "other.hdf5", "w") as file:
        file["features"] = np.zeros(3)
    with pytest.raises(DatasetError, match="not in robomimic's layout"):
        DemonstrationFile(tmp_path / "other.hdf5")


def test_damage_inside_a_file_is_found(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", 2)
    with opened(path, "r+") as file:
        del file["data/demo_1/obs/robot0_eef_pos"]
        file["data/demo_1/obs/robot0_eef_pos"] = np.zeros((2, 3))
    with (
        DemonstrationFile(path) as damaged,
        pytest.raises(DatasetError, match="demo_1 has 5 actions but 2 rows of obs/robot0_eef_pos"),
    ):
        damaged.states("demo_1")
    with opened(path, "r+") as file:
        del file["data/demo_1/actions"]
    with DemonstrationFile(path) as damaged:
        assert damaged.length("demo_0") == 4
        with pytest.raises(DatasetError, match="demo_1 has no actions"):
            damaged.check()


def spoil(path: Path, key: str, values: np.ndarray | None) -> None:
    """Replace an array of demo_1, and with None remove its model_file."""
    with opened(path, "r+") as file:
        if values is None:
            del file["data/demo_1"].attrs["model_file"]
            return
        for name in ("actions", "states", "rewards", "dones", "obs/agentview_image", "obs/robot0_eef_pos"):
            if name == key or len(values) == 0:
                shape = (len(values), *file[f"data/demo_1/{name}"].shape[1:])
                del file[f"data/demo_1/{name}"]
                file[f"data/demo_1/{name}"] = values if name == key else np.zeros(shape)


NAN = np.zeros((5, 7))
NAN[3, 2] = np.nan


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (NAN, "actions that are not finite, first at step 3"),
        (np.zeros((0, 7)), "has no steps"),
        (np.zeros((5, 6)), r"shape \(6,\), the task takes \(7,\)"),
    ],
)
def test_what_would_spoil_training_is_named(tmp_path: Path, values: np.ndarray, words: str) -> None:
    path = write_file(tmp_path / "demos.hdf5", 3)
    with DemonstrationFile(path) as file:
        file.check(action_dim=7)
    spoil(path, "actions", values)
    with DemonstrationFile(path) as file:
        file.check(["demo_0", "demo_2"], action_dim=7)
        with pytest.raises(DatasetError, match=f"^demo_1 of .*demos.hdf5 .*{words}"):
            file.check(action_dim=7)


def test_a_demonstration_whose_scene_is_not_known_is_warned_of(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", 3)
    spoil(path, "model_file", None)
    with (
        DemonstrationFile(path) as file,
        pytest.warns(UserWarning, match="1 of 3 demonstrations of .* no model_file .demo_1 is the first"),
    ):
        file.check()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every array and demonstration that is asked of HDF5, and every opened file."""
    asked: list[str] = []
    get, start = h5py.Group.__getitem__, h5py.File.__init__

    def getitem(group: h5py.Group, name: str) -> object:
        asked.append(f"{group.name}/{name}".replace("//", "/"))
        return get(group, name)

    def init(file: h5py.File, name: object, *arguments: object, **options: object) -> None:
        if isinstance(name, str | Path):  # h5py also wraps files that are open
            asked.append("open")
        start(file, name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(h5py.Group, "__getitem__", getitem)
    monkeypatch.setattr(h5py.File, "__init__", init)
    return asked


def test_opening_looks_at_one_demonstration_and_reading_checks_each_once(
    tmp_path: Path, looked_at: list[str]
) -> None:
    path = write_file(tmp_path / "demos.hdf5", 12)
    looked_at.clear()
    with DemonstrationFile(path) as file:
        assert not [name for name in looked_at if "demo_" in name and not name.startswith("/data/demo_0")]
        looked_at.clear()
        file.array("demo_3", "states")
        first = len(looked_at)
        file.array("demo_3", "actions")
        assert len(looked_at) - first == 3  # data, the demonstration, the array
        assert not [name for name in looked_at if "demo_" in name and not name.startswith("/data/demo_3")]


def test_a_part_of_an_array_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DemonstrationFile(write_file(tmp_path / "demos.hdf5", 12)) as file:
        pictures = file.array("demo_11", "obs/agentview_image")
        read: list[object] = []
        get = h5py.Dataset.__getitem__
        monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda d, rows: (read.append(rows), get(d, rows))[1])
        assert pictures[2:4].shape == (2, 8, 8, 3)
        assert read == [slice(2, 4)]


class NoSimulation:
    """The least that `map_with_environment` needs of a task."""

    renderer = "warp"

    def make_env(self, obs_keys: object) -> "NoSimulation":
        return self

    def close(self) -> None:
        pass


def step_count(env: object, demo: str, file: DemonstrationFile) -> tuple[int, int, int]:
    return os.getpid(), id(file), file.length(demo)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_is_opened_once_in_each_process(
    tmp_path: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """It used to be opened, and every demonstration of it checked, for each demonstration."""
    monkeypatch.setattr(pool, "prepare_rendering", lambda renderer: None)
    path = write_file(tmp_path / "demos.hdf5", 12)
    looked_at.clear()
    with DemonstrationFile(path) as file:
        job = partial(step_count, file=file)
        task = cast(Task, NoSimulation())
        found = list(pool.map_with_environment(job, file.demos, task, (), workers))
    assert looked_at.count("open") == 1
    assert sorted(length for *_, length in found) == list(range(4, 16))
    processes = {process for process, *_ in found}
    assert len({(process, file) for process, file, _ in found}) == len(processes) <= workers
    assert (os.getpid() in processes) == (workers == 1)


def test_a_file_that_is_gone_where_it_is_needed_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", 2)
    with DemonstrationFile(path) as file:
        sent = pickle.loads(pickle.dumps(file))
    assert sent.demos == ["demo_0", "demo_1"]
    assert sent.length("demo_1") == 5
    sent.close()
    path.unlink()
    gone = pickle.loads(pickle.dumps(file))
    with pytest.raises(DatasetError, match="does not exist"):
        gone.length("demo_0")


def test_names_with_gaps_keep_their_numbers(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", 12)
    with opened(path, "r+") as file:
        del file["data/demo_0"], file["data/demo_7"], file["mask"]
    with DemonstrationFile(path) as file:
        assert file.demos == [f"demo_{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11)]
        file.check()
        assert file.obs_keys == ["agentview_image", "robot0_eef_pos"]


def test_numbers_may_have_leading_zeros_but_not_twice(tmp_path: Path) -> None:
    path = write_file(tmp_path / "demos.hdf5", 2)
    with opened(path, "r+") as file:
        file.move("data/demo_0", "data/demo_010")
        del file["mask"]
    with DemonstrationFile(path) as file:
        assert file.demos == ["demo_1", "demo_010"]
        file.check()
    with opened(path, "r+") as file:
        file.move("data/demo_1", "data/demo_10")
    with pytest.raises(DatasetError, match="which have the same number"):
        DemonstrationFile(path)
