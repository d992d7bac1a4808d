"""Checkpoints and evaluations that are damaged, or of another kind."""

import pickle
from pathlib import Path

import pytest
import torch

from fibo_robot.interfaces import ActionSpec
from fibo_robot.training.checkpoint import save_checkpoint
from tests.cli.wrong_input.refusals import refused


def test_missing_evaluation_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no seed=0/rollouts" in refused(capsys, "compare", "fibo=seed=0/rollouts")


@pytest.mark.parametrize("content", ["{ cut off", "[]", '{"schema_version": 1}', '{"schema_version": 7}'])
def test_damaged_evaluation_is_named(capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("eval.json").write_text(content)
    assert "eval.json" in refused(capsys, "compare", "eval.json")


def write_checkpoint(kind: str) -> None:
    """A checkpoint directory with all its files, but of no model that exists."""
    meta = {"kind": kind, "task": {}, "shape_meta": {"obs": {}, "action": ActionSpec.deltas().to_dict()}}
    save_checkpoint("run", {"weight": torch.zeros(2)}, {"name": "test"}, meta)


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors"])
def test_checkpoint_with_a_file_missing_names_the_file(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_checkpoint("policy")
    Path("run", name).unlink()
    message = refused(capsys, "rollout", "run")
    assert name in message and "not a complete checkpoint" in message


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors"])
def test_checkpoint_with_a_damaged_file_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_checkpoint("policy")
    Path("run", name).write_bytes(b"{ cut off")
    assert "damaged" in refused(capsys, "rollout", "run")


def test_missing_checkpoint_directory_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refused(capsys, "rollout", "nowhere")


def test_rollout_of_a_classifier_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint("classifier")
    assert "classifier" in refused(capsys, "rollout", "run")


def test_checkpoint_is_never_unpickled(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    """A pickle in the place of the weights is refused without running what it holds."""
    write_checkpoint("policy")
    payload = pickle.dumps(_Touch(str(empty_folder / "ran")))
    Path("run", "model.safetensors").write_bytes(payload)
    refused(capsys, "rollout", "run")
    assert not (empty_folder / "ran").exists()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")
