"""Every family's decision is timed, and held against the time that its actions take."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fibo_robot.benchmarks.policies import decisions as benchmark
from fibo_robot.cli.main import app
from fibo_robot.training.config import options_of


def test_a_decision_may_take_as_long_as_its_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        "bc_gmm 1": [0.19] * 4,
        "bc_gmm 3": [0.19, 0.19, 0.21, 0.5],
        "bc_rnn 1": [0.06] * 4,
        "bc_rnn 3": [0.04] * 4,
    }
    monkeypatch.setattr(benchmark, "interleave", lambda *_, **__: times)
    rows = {(row.case, row.batch): row for row in benchmark.measure(["bc_gmm", "bc_rnn"], (1, 3))}
    # Four actions take 200 ms at 20 Hz, one takes 50.
    assert {key: row.keeps_up for key, row in rows.items()} == {
        ("bc_gmm", 1): True,
        ("bc_gmm", 3): False,
        ("bc_rnn", 1): False,
        ("bc_rnn", 3): True,
    }
    assert rows["bc_gmm", 1].milliseconds == pytest.approx(190) and rows["bc_gmm", 1].parameters > 1


def test_all_families_are_measured_on_their_own_shapes(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = ["bench", "policy", "--batches", "2", "--rounds", "2", "--json", str(out)]
    result = CliRunner().invoke(app, [*command, "network=mlp", "readout=mean", "policy.encoder.depth=null"])
    assert result.exit_code != 0  # a key that is not there
    result = CliRunner().invoke(app, [*command, "network=mlp", "readout=mean"])
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"] for row in rows] == options_of("policy")
    assert all(row["milliseconds"] > 0 and row["batch"] == 2 for row in rows)
    assert {row["case"]: row["n_action_steps"] for row in rows}["bc_rnn"] == 1
