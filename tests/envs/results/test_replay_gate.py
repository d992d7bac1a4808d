"""Reports quote how recorded demonstrations fare in this simulator."""

import tomllib
from dataclasses import replace
from typing import Any

import pytest

from fibo_robot.envs import get_task
from fibo_robot.envs.results import replay_gate
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.results.report import add_evaluation
from fibo_robot.interfaces import ActionSpec
from fibo_robot.reporting import Report
from tests.capabilities import REPOSITORY

HERE = {"robosuite": "1.5.2", "mujoco": "3.9.0"}
ROW: dict[str, Any] = {
    "env_name": "PickPlaceCan",
    "robots": ["Panda"],
    "mode": "delta",
    "recorded_by": None,
    "recorded_with": {"robosuite": "1.4.1"},
    "replayed_with": HERE,
    "demonstrations": 40,
    "successes": 38,
    "median_object_drift": 0.0021,
}


@pytest.fixture
def one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_gate, "gate_results", lambda: [ROW])


def test_the_result_is_of_the_same_environment_robot_and_kind_of_action(one_result: None) -> None:
    can = get_task("can")
    assert len(replay_gate.gate_sentences(can.to_dict(), HERE)) == 1
    others = [
        get_task("lift"),
        replace(can, robots=("Sawyer",)),
        get_task("can", controller={}, action=ActionSpec.poses()),
        get_task("pusht"),
    ]
    assert [replay_gate.gate_sentences(other.to_dict(), HERE) for other in others] == [[], [], [], []]


def test_the_sentence_says_what_was_tried_in_which_version(one_result: None) -> None:
    (sentence,) = replay_gate.gate_sentences(get_task("can").to_dict(), HERE)
    assert "38 of 40 demonstrations by others (recorded with robosuite 1.4.1)" in sentence
    assert "robosuite 1.5.2 and mujoco 3.9.0; the object was off by 2.1 mm" in sentence
    assert "not tried" not in sentence
    (sentence,) = replay_gate.gate_sentences(get_task("can").to_dict(), {**HERE, "mujoco": "3.8.0"})
    assert "robosuite 1.5.2 and mujoco 3.8.0, for which that was not tried" in sentence


def test_the_report_quotes_it(one_result: None) -> None:
    report = Report("title")
    add_evaluation(report, Evaluation((), task=get_task("can").to_dict(), versions=HERE), REPOSITORY)
    assert "Replay gate: 38 of 40" in report.to_html()


def test_the_shipped_results_are_of_the_versions_that_are_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(line.split("==") for line in project["optional-dependencies"]["sim"])
    results = replay_gate.gate_results()
    assert {"Lift", "PickPlaceCan", "NutAssemblySquare"} <= {row["env_name"] for row in results}
    for row in results:
        assert row["by"] == "actions"
        assert {name: row["replayed_with"][name] for name in pinned} == pinned
        assert 0 <= row["successes"] <= row["demonstrations"]
        assert row["demonstrations"] - row["successes"] == len(row["failed"])
        assert "/" not in row["file"]
