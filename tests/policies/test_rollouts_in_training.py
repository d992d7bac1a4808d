"""Rollouts on held-out seeds while training, and the last checkpoints: training is the same with them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fibo_robot.envs.errors import RolloutError
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.identity import weights_digest
from fibo_robot.policies import load_policy, rollouts
from fibo_robot.training.checkpoint import CheckpointError, last_checkpoints, load_checkpoint
from fibo_robot.training.overrides import train_from_overrides
from tests.policies.test_resume import overrides

HELD_OUT = ["rollouts=held_out", "rollouts.every_n_epochs=2", "rollouts.episodes=3", "rollouts.videos=0"]


class Asked:
    """Stands for the simulator: every policy that is rolled out succeeds more often than the last."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, policy: Any, task: Any, seeds: range, workers: int, **options: Any) -> Any:
        assert not policy.training
        torch.rand(7)  # whatever it draws, training must not feel it
        self.calls.append({"weights": weights_digest(policy), "seeds": seeds, "task": task.name, **options})
        rate = 0.25 * len(self.calls)
        return type("Result", (), {"success_rate": rate, "episodes": ()})()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    stand_in = Asked()
    monkeypatch.setattr(rollouts, "rollout", stand_in)
    return stand_in


def train(demonstrations: Path, run_dir: Path, *more: str) -> Path:
    return train_from_overrides(overrides(demonstrations, run_dir, "trainer.ema_decay=0.9", *more))


def test_each_second_epoch_and_the_last_are_rolled_out_with_the_weights_that_are_saved(
    demonstrations: Path, tmp_path: Path, asked: Asked
) -> None:
    run = train(demonstrations, tmp_path / "run", *HELD_OUT, "trainer.max_epochs=5", "trainer.keep_last=9")
    assert [call["output"].name for call in asked.calls] == ["epoch_00002", "epoch_00004", "epoch_00005"]
    for call in asked.calls:
        saved = load_policy(run / "checkpoints" / call["output"].name)
        assert call["weights"] == weights_digest(saved)
        assert (call["seeds"], call["task"]) == (range(200_000, 200_003), "lift")
    rows = json.loads((run / "history.json").read_text())
    assert [row.get("rollout/success") for row in rows] == [None, 0.25, None, 0.5, 0.75]


def test_training_does_not_feel_them_even_when_resumed(
    demonstrations: Path, tmp_path: Path, asked: Asked
) -> None:
    without = train(demonstrations, tmp_path / "without", "trainer.max_epochs=4")
    beside = tmp_path / "with"
    train(demonstrations, beside, *HELD_OUT, "trainer.max_epochs=2")
    train(demonstrations, beside, *HELD_OUT, "trainer.max_epochs=4")
    ours, theirs = (load_checkpoint(run).state_dict for run in (beside, without))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    rows = json.loads((beside / "history.json").read_text())
    assert [row.get("rollout/success") for row in rows] == [None, 0.25, None, 0.5]


def test_only_the_last_checkpoints_are_kept_and_each_loads(demonstrations: Path, tmp_path: Path) -> None:
    run = train(demonstrations, tmp_path / "run", "trainer.max_epochs=4", "trainer.keep_last=2")
    kept = last_checkpoints(run, 2)
    assert [folder.name for folder in kept] == ["epoch_00003", "epoch_00004"]
    assert [load_checkpoint(folder).meta["epoch"] for folder in kept] == [3, 4]
    assert weights_digest(load_policy(kept[-1])) == weights_digest(load_policy(run))
    assert weights_digest(load_policy(kept[0])) != weights_digest(load_policy(run))
    with pytest.raises(CheckpointError, match=r"has kept 2 checkpoints, not 3\. .*trainer\.keep_last=3"):
        last_checkpoints(run, 3)


def test_numbers_that_are_not_positive_are_refused(demonstrations: Path, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="must be positive"):
        train(demonstrations, tmp_path / "run", "rollouts=held_out", "rollouts.every_n_epochs=0")


@pytest.mark.slow
def test_a_run_leaves_evaluations_with_films(demonstrations: Path, tmp_path: Path) -> None:
    run = train(
        demonstrations,
        tmp_path / "run",
        *HELD_OUT,
        "trainer.max_epochs=2",
        "rollouts.every_n_epochs=2",
        "rollouts.episodes=1",
        "rollouts.videos=1",
        "rollouts.workers=1",
        "logger=tensorboard",
    )
    folder = run / rollouts.FOLDER / "epoch_00002"
    evaluation = Evaluation.load(folder)
    assert [episode.seed for episode in evaluation.episodes] == [200_000]
    assert (folder / str(evaluation.episodes[0].video)).is_file()
    assert evaluation.policy["epoch"] == 2
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0})
    events.Reload()
    (film,) = events.Images("rollout/seed_200000")
    with Image.open(io.BytesIO(film.encoded_image_string)) as shown:
        assert (shown.format, shown.size) == ("GIF", (192, 192))
        assert getattr(shown, "n_frames", 1) > 1
    assert [event.value for event in events.Scalars("rollout/success")] == [evaluation.success_rate]
