import json
from pathlib import Path

import pytest
import torch

from fibo_robot.training.checkpoint import (
    CONFIG,
    META,
    TRAINER,
    CheckpointError,
    installed_versions,
    load_checkpoint,
    save_checkpoint,
    version_differences,
)
from fibo_robot.training.resume import ResumeError, epochs_done, refuse_other_config, refuse_other_data


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "run"
    save_checkpoint(directory, {"w": torch.arange(6.0).reshape(2, 3).T}, {"a": {"b": 1}}, {"kind": "policy"})
    return directory


def test_what_is_saved_is_loaded(saved):
    checkpoint = load_checkpoint(saved)
    assert checkpoint.config == {"a": {"b": 1}}
    assert checkpoint.meta["kind"] == "policy"
    assert checkpoint.meta["versions"]["torch"] == installed_versions()["torch"]
    assert torch.equal(checkpoint.state_dict["w"], torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["meta.json", "model.safetensors"])
def test_a_damaged_file_is_reported(saved, name):
    (saved / name).write_bytes((saved / name).read_bytes()[:20])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_a_config_cannot_name_python_objects(saved):
    (saved / "config.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_a_newer_format_asks_for_an_upgrade(saved):
    meta = json.loads((saved / "meta.json").read_text())
    (saved / "meta.json").write_text(json.dumps({**meta, "format_version": 99}))
    with pytest.raises(CheckpointError, match="Upgrade"):
        load_checkpoint(saved)


def test_no_temporary_file_stays_behind(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.yaml", "meta.json", "model.safetensors"]


def test_another_simulator_version_is_said_in_words(saved):
    meta = load_checkpoint(saved).meta
    assert version_differences(meta) == []
    meta["versions"]["mujoco"] = "2.0"
    (sentence,) = version_differences(meta)
    assert "mujoco 2.0" in sentence


def test_a_checkpoint_says_what_it_is_wherever_it_lies(saved, tmp_path):
    first = load_checkpoint(saved).describe()
    assert first["checkpoint"] == saved.name
    assert first["git_revision"] == load_checkpoint(saved).meta["git_revision"]
    moved = saved.rename(saved.with_name("moved"))
    assert load_checkpoint(moved).describe() == {**first, "checkpoint": "moved"}


def test_how_a_checkpoint_came_about_is_its_config_and_history(saved):
    config = load_checkpoint(saved).config
    assert load_checkpoint(saved).training() == {"config": config, "history": [], "cost": {}}
    (saved / "history.json").write_text('[{"step": 1}]')
    assert load_checkpoint(saved).training()["history"] == [{"step": 1}]
    (saved / "history.json").write_text('[{"step"')
    with pytest.raises(CheckpointError, match=r"history\.json is damaged"):
        load_checkpoint(saved).training()


@pytest.mark.parametrize("name", [CONFIG, META, TRAINER])
def test_a_damaged_run_is_not_continued_and_the_file_is_named(tmp_path: Path, name: str) -> None:
    meta = {"dataset": {"sha256": "0", "name": "clips"}}
    save_checkpoint(tmp_path, {"weight": torch.zeros(1)}, {"seed": 0}, meta)
    torch.save({"epoch": 0}, tmp_path / TRAINER)
    for damaged in (b"", b'{"a: [', b"hello", b"[1, 2]", b"\x00\x01"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ResumeError, match=rf"{name} is damaged.*run_dir=NEW_FOLDER"):
            refuse_other_config(tmp_path, {"seed": 0})
            refuse_other_data(tmp_path, meta)
            epochs_done(tmp_path / TRAINER)
        (tmp_path / name).write_bytes(content)
    refuse_other_config(tmp_path, {"seed": 0})
    refuse_other_data(tmp_path, meta)
    assert epochs_done(tmp_path / TRAINER) == 1
