"""Castling during training: a gap while the branch is on, exactly none after the schedule's end."""

import json

import pytest
import torch
from typer.testing import CliRunner

from fibo_robot.benchmarks.attention import castling
from fibo_robot.benchmarks.attention.castling import gratings, measure
from fibo_robot.benchmarks.harness import BenchmarkError
from fibo_robot.cli.main import app


def test_command_reports_the_gap_over_the_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(castling, "TEST_IMAGES", 32)
    path = tmp_path / "castling.json"
    result = CliRunner().invoke(
        app, ["bench", "castling", "--steps", "1", "--seed", "3", "--json", str(path)]
    )
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert written["machine"]["torch"] == torch.__version__
    rows = written["rows"]
    assert [row["schedule"] for row in rows] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25])
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["branch_scale"] for row in rows] == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    # The mass is the mask's own: the schedule, down to a quarter here, does not enter.
    masses = [row["mass_passed"] for row in rows[:4]]
    assert max(masses) < 2 * min(masses)
    for row in rows[:4]:
        assert row["output_gap"] > 0 and row["relative_gap"] > 0 and row["mass_passed"] > 0
    for row in rows[4:]:
        assert row["branch_scale"] == 0 and row["mass_passed"] is None
        assert row["output_gap"] == row["relative_gap"] == 0
        assert row["accuracy_before"] == row["accuracy_after"]
    assert rows == [row.to_dict() for row in measure(steps_per_quarter=1, seed=3)]  # same seed, same result


def test_images_tell_their_orientation():
    images, labels = gratings(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 3, 24, 24) and images.min() >= 0 and images.max() <= 1
    assert set(labels.tolist()) == {0, 1, 2, 3}
    # A grating along the columns varies from column to column only; noise remains.
    upright = images[labels == 0].mean(dim=1)
    assert upright.mean(dim=-2).var(dim=-1).mean() > 2 * upright.mean(dim=-1).var(dim=-1).mean()


def test_nothing_to_train_is_refused():
    with pytest.raises(BenchmarkError, match="at least 1"):
        measure(steps_per_quarter=0)
