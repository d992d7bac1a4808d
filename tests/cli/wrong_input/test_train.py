"""`fibo train` with a mistyped config, or demonstrations that cannot be used."""

import pytest

from tests.cli.wrong_input.files import BAD_FILES, write_bad_file
from tests.cli.wrong_input.refusals import refused

TRAIN = ("train", "experiment=lift_bc", "trainer.accelerator=cpu", "run_dir=run")
DEMOS = "data.path=demos.hdf5"


def test_mistyped_config_key_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *TRAIN, "trainer.max_epoch=3", DEMOS)
    assert "trainer.max_epoch'" in message and "'trainer.max_epochs'" in message


def test_mistyped_group_key_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *TRAIN, "atention=fibottention", DEMOS)
    assert "atention" in message and "'attention'" in message


def test_unknown_experiment_is_named_with_the_nearest_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "train", "experiment=lift_bd")
    assert "lift_bd" in message and "'lift_bc'" in message


def test_unknown_attention_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *TRAIN, "attention=fibotention", DEMOS)
    assert "fibotention" in message and "'fibottention'" in message


@pytest.mark.parametrize("override", ["=3", "trainer.max_epochs", "optimizer.lr=[1,", "a b=3"])
def test_malformed_override_is_repeated_in_the_message(
    capsys: pytest.CaptureFixture[str], override: str
) -> None:
    message = refused(capsys, *TRAIN, DEMOS, override)
    assert override in message and "key=value" in message


def test_training_without_an_experiment_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lift_bc" in refused(capsys, "train")


def test_dataset_path_that_was_not_given_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.path" in refused(capsys, *TRAIN)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_training_on_an_unusable_dataset_is_refused(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    write_bad_file(kind)
    message = refused(capsys, *TRAIN, DEMOS)
    assert "demos.hdf5" in message and BAD_FILES[kind] in message
