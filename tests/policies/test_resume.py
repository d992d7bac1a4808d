"""A run is continued by what made it: other content or another schedule is refused, another place is not."""

import json
from pathlib import Path

import h5py
import pytest
import torch

from fibo_robot.errors import FiboError
from fibo_robot.training.checkpoint import load_checkpoint
from fibo_robot.training.overrides import train_from_overrides
from fibo_robot.training.resume import ResumeError, refuse_other_config


def overrides(demonstrations: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "experiment=lift_bc",
        f"data.path={demonstrations}",
        f"run_dir={run_dir}",
        "data.obs_keys=[robot0_eef_pos]",
        "data.batch_size=4",
        "data.steps_per_epoch=2",
        "policy.head.hidden=[16]",
        "policy.head.dropout=0.1",
        "trainer.accelerator=cpu",
        "optimizer.schedule=constant_with_warmup",
        "optimizer.warmup_steps=3",
        "logger=none",
        *more,
    ]


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return target


@pytest.fixture
def begun(demonstrations: Path, tmp_path: Path) -> Path:
    """A run of one epoch on a copy of the demonstrations in `first/`."""
    data = copy(demonstrations, tmp_path / "first" / "demos.hdf5")
    return train_from_overrides(overrides(data, tmp_path / "run", "trainer.max_epochs=1"))


def test_more_epochs_on_moved_data_are_the_run_that_was_meant_from_the_start(
    demonstrations: Path, begun: Path, tmp_path: Path
) -> None:
    (tmp_path / "first" / "demos.hdf5").unlink()
    moved = copy(demonstrations, tmp_path / "second" / "moved.hdf5")
    train_from_overrides(overrides(moved, begun, "trainer.max_epochs=3"))
    whole = train_from_overrides(overrides(demonstrations, tmp_path / "whole", "trainer.max_epochs=3"))
    ours, theirs = (load_checkpoint(run).state_dict for run in (begun, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    rows = [json.loads((run / "history.json").read_text()) for run in (begun, whole)]
    assert [row["train/loss"] for row in rows[0]] == [row["train/loss"] for row in rows[1]]
    assert load_checkpoint(begun).config["trainer"]["max_epochs"] == 3


def test_a_replaced_file_does_not_continue_a_run(begun: Path, tmp_path: Path) -> None:
    data = tmp_path / "first" / "demos.hdf5"
    before = (begun / "model.safetensors").read_bytes()
    with h5py.File(data, "a") as file:
        actions = file["data/demo_0/actions"]
        assert isinstance(actions, h5py.Dataset)
        actions[0, 0] += 0.01
    with pytest.raises(ResumeError, match=r"demos\.hdf5 are not those .*content differs.*run_dir=NEW_FOLDER"):
        train_from_overrides(overrides(data, begun, "trainer.max_epochs=2"))
    assert (begun / "model.safetensors").read_bytes() == before


def config(schedule: str = "constant", attention: str = "softmax", **trainer: int) -> dict:
    return {
        "attention": {"name": attention},
        "optimizer": {"schedule": schedule},
        "trainer": {"max_epochs": 4, **trainer},
        "data": {"path": "here", "num_workers": 0, "batch_size": 8},
        "logger": None,
    }


@pytest.fixture
def recorded(tmp_path: Path):
    def write(values: dict) -> Path:
        (tmp_path / "config.yaml").write_text(json.dumps(values))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"schedule": "cosine"}, r"run of 4 epochs whose learning rate \(schedule cosine\) ends with"),
        ({"schedule": "piecewise_constant"}, "piecewise_constant"),
        ({"attention": "castling"}, "Castling schedule ends with the training"),
    ],
)
def test_more_epochs_are_refused_where_a_schedule_runs_to_the_end(
    values: dict, reason: str, recorded
) -> None:
    run_dir = recorded(config(**values))
    with pytest.raises(ResumeError, match=reason):
        refuse_other_config(run_dir, config(**values, max_epochs=8))


def test_places_and_processes_may_change_and_nothing_else(recorded) -> None:
    run_dir = recorded(config())
    changed = {**config(), "data": {"path": "there", "num_workers": 4, "batch_size": 8}, "logger": "other"}
    refuse_other_config(run_dir, changed)
    refuse_other_config(run_dir, config(max_epochs=9))
    with pytest.raises(ResumeError, match=r"another config \(data\.batch_size\)"):
        refuse_other_config(run_dir, {**changed, "data": {**changed["data"], "batch_size": 9}})


def test_the_data_are_hashed_by_one_process(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(FiboError):
        pass

    def hash_it(path: Path) -> str:
        hashed.append(path)
        raise Stop

    hashed: list[Path] = []
    monkeypatch.setattr("fibo_robot.policies.data.hdf5.dataset_hash", hash_it)
    monkeypatch.setattr("fibo_robot.training.run._continue", lambda *_: None)
    for rank, expected in ((1, 0), (0, 1)):
        monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", rank)
        try:
            train_from_overrides(overrides(demonstrations, tmp_path / f"rank{rank}"))
        except Stop:
            assert rank == 0
        assert len(hashed) == expected
