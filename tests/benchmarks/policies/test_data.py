"""Batches are compared with robomimic's of the same samples; a large file is made of recorded pictures."""

import multiprocessing
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("robomimic")

from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.benchmarks.policies import data as benchmark
from fibo_robot.benchmarks.policies import samples as data_samples
from fibo_robot.benchmarks.policies.data import Reading
from fibo_robot.benchmarks.policies.samples import Samples, check_same_samples, make_file
from fibo_robot.envs.tasks import get_task
from fibo_robot.interfaces import Window


def samples(path: Path, window: Window = "past") -> Samples:
    keys = ["agentview_image", "robot0_eef_pos"]
    meta = get_task("lift").shape_meta(obs_keys=keys, n_obs_steps=2, action_horizon=4)
    return Samples(str(path), "train", meta, window, batch_size=4, batches=2)


@pytest.mark.parametrize("window", ["past", "sequence"])
def test_both_give_the_same_samples(demonstrations: Path, window: Window) -> None:
    check_same_samples(samples(demonstrations, window))


def test_other_numbers_are_noticed(demonstrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = data_samples.robomimic_dataset
    asked = samples(demonstrations)
    meta = replace(asked.shape_meta, action_horizon=3)
    monkeypatch.setattr(
        data_samples, "robomimic_dataset", lambda _, cache: theirs(replace(asked, shape_meta=meta), cache)
    )
    with pytest.raises(BenchmarkError, match="actions of sample 0 is not the same in robomimic"):
        check_same_samples(asked)


def test_the_same_in_lerobots_format_is_read_and_another_file_is_refused(
    demonstrations: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    from fibo_robot.envs.demonstrations.lerobot.write import write_lerobot

    write_lerobot(demonstrations, tmp_path / "v3", "h264")
    asked = replace(samples(demonstrations), v3=str(tmp_path / "v3"))
    check_same_samples(asked)
    batches = benchmark._endless(asked, Reading("fibo_v3", "low_dim", 0))
    assert next(batches)["obs"]["agentview_image"].shape == (4, 2, 3, 84, 84)
    other = shutil.copy(demonstrations, tmp_path / "other.hdf5")
    with h5py.File(other, "r+") as file:
        actions = file["data/demo_0/actions"]
        assert isinstance(actions, h5py.Dataset)
        actions[2, 1] += 0.25
    with pytest.raises(BenchmarkError, match="fibo demos convert"):
        check_same_samples(replace(asked, path=str(other)))


class Timed:
    """Stands for a process: robomimic takes 4 s a round, and 2 s with a cache of everything; ours 1 s."""

    start_s = 0.5

    def __init__(self, _: Samples, reading: Reading) -> None:
        self.reading, self.seconds = reading, []

    def run_round(self) -> None:
        first = not self.seconds  # as slow as a disk is
        usual = {"none": 5.0, "low_dim": 4.0, "all": 2.0}[self.reading.cache]
        self.seconds.append(100.0 if first else 1.0 if self.reading.case == "fibo" else usual)

    def resident_mb(self) -> tuple[float, float | None]:
        return 700.0, 500.0 if self.reading.workers else None

    def close(self) -> None:
        pass


def measured(path: Path, monkeypatch: pytest.MonkeyPatch, caches: Any) -> dict[tuple[str, str], Any]:
    monkeypatch.setattr(benchmark, "_Process", Timed)
    rows = benchmark.measure(samples(path), workers=[0], caches=caches, rounds=2)
    return {(row.case, row.cache): row for row in rows}


def test_the_baseline_is_robomimics_fastest_without_pictures_in_memory(
    demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = measured(demonstrations, monkeypatch, ["none", "low_dim", "all"])
    assert {key: (row.speedup, row.speedup_vs_all) for key, row in rows.items()} == {
        ("fibo", "low_dim"): (4.0, 2.0),
        ("robomimic", "none"): (0.8, 0.4),
        ("robomimic", "low_dim"): (1.0, 0.5),
        ("robomimic", "all"): (2.0, 1.0),
    }
    assert rows["fibo", "low_dim"].batches_per_s == 2.0
    rows = measured(demonstrations, monkeypatch, ["low_dim"])
    assert rows["fibo", "low_dim"].speedup_vs_all is None


@pytest.mark.parametrize("layout", ["recorded", "one_piece"])
def test_a_large_file_repeats_recorded_pictures_under_new_actions(
    demonstrations: Path, tmp_path: Path, layout: Any
) -> None:
    path = make_file(demonstrations, tmp_path / "large.hdf5", 0.01, layout)
    assert 0.01e9 <= path.stat().st_size < 0.013e9
    with h5py.File(demonstrations) as old, h5py.File(path) as new:
        for key, same in (("obs/agentview_image", True), ("actions", False)):
            first, again = (
                np.array(file[f"data/{name}/{key}"]) for file, name in ((old, "demo_1"), (new, "demo_5"))
            )
            assert np.array_equal(first, again) == same
            np.testing.assert_allclose(first, again, atol=1e-3)
    check_same_samples(samples(path))


@pytest.mark.slow
def test_processes_read_and_tell_their_memory(demonstrations: Path) -> None:
    rows = benchmark.measure(samples(demonstrations), workers=[1], caches=["low_dim"], rounds=1)
    assert [(row.case, row.workers) for row in rows] == [("fibo", 1), ("robomimic", 1)]
    for row in rows:
        assert row.batches_per_s > 0 and row.resident_mb > 50
        assert row.worker_resident_mb is not None and row.worker_resident_mb > 50


@pytest.mark.parametrize("case", ["fibo", "robomimic"])
def test_without_a_loader_the_training_process_reads_itself(demonstrations: Path, case: str) -> None:
    here, other = multiprocessing.Pipe()
    asked = samples(demonstrations), Reading(case, "low_dim", 0), other
    process = threading.Thread(target=benchmark._serve, args=asked)  # of ours alone, without its imports
    process.start()
    try:
        assert here.recv() > 0  # seconds until the first batch
        here.send("round")
        assert here.recv() > 0
        here.send("memory")
        resident, of_loaders = here.recv()
        assert resident > 50 and of_loaders is None
    finally:
        here.close()
        process.join(timeout=60)
    assert not process.is_alive()
