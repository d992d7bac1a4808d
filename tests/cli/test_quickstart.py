"""The quickstart's stages: shown, run in lanes side by side, kept, and stopped by what fails."""

import json
import re
import time
from pathlib import Path

import pytest

from fibo_robot.cli.quickstart import lanes
from fibo_robot.cli.quickstart.command import stages
from fibo_robot.cli.quickstart.lanes import Stage, longest_lane, run_stages
from fibo_robot.errors import FiboError


def help_stage(tmp_path: Path, command: str, result: str, lane: str = "one") -> Stage:
    """A stage that runs a real, quick command; its result is there or not."""
    arguments = (command, "--help")
    return Stage(lane, f"Ask {command} for help", "To see it.", arguments, tmp_path / result, expected=90)


def test_stages_run_once_and_are_kept(tmp_path, capfd):
    (tmp_path / "result").touch()
    plan = [help_stage(tmp_path, "train", "result")]
    (first,) = run_stages(plan, tmp_path)
    assert "Usage: fibo train" in capfd.readouterr().out.replace("python -m fibo_robot.cli", "fibo")
    assert float(str(first["seconds"])) > 0
    (again,) = run_stages(plan, tmp_path)
    assert again == first
    assert "already done" in capfd.readouterr().out


def test_each_stage_says_what_it_is_for_and_how_long_it_takes(tmp_path, capfd):
    (tmp_path / "result").touch()
    plan = [help_stage(tmp_path, "train", "result"), help_stage(tmp_path, "demos", "result")]
    run_stages(plan, tmp_path)
    shown = capfd.readouterr().out
    assert "2 of 2 stages to run, about 3 min" in shown
    expected = ["Ask train for help (about 1 min 30 s)", "To see it.", "$ fibo train --help"]
    assert "\n".join(f"one | {line}" for line in expected) in shown
    assert len(re.findall(r"^one \| took \d+ s$", shown, re.MULTILINE)) == 2
    run_stages([*plan, help_stage(tmp_path, "compare", "result")], tmp_path)
    assert "1 of 3 stages to run, about 1 min 30 s" in capfd.readouterr().out


def test_lanes_run_side_by_side_and_the_stages_of_one_after_each_other(tmp_path, capfd):
    (tmp_path / "result").touch()
    plan = [
        help_stage(tmp_path, "train", "result", "a"),
        help_stage(tmp_path, "demos", "result", "a"),
        help_stage(tmp_path, "compare", "result", "long"),
    ]
    run_stages(plan, tmp_path)
    shown = capfd.readouterr().out
    assert "3 of 3 stages to run, about 3 min" in shown  # and not four and a half
    begins = {lane: shown.index(f"{lane} | $ fibo") for lane in ("a   ", "long")}
    assert max(begins.values()) < min(shown.index(f"{lane} | took") for lane in begins)
    assert shown.index("a    | took") < shown.index("a    | $ fibo demos")
    assert longest_lane([("a", 2.0), ("b", 3.5), ("a", 4.0)]) == 6.0


def test_a_stage_without_its_result_stops_the_run_and_keeps_what_was_done(tmp_path):
    (tmp_path / "result").touch()
    plan = [help_stage(tmp_path, "train", "result"), help_stage(tmp_path, "demos", "absent")]
    with pytest.raises(FiboError, match="stage 2"):
        run_stages(plan, tmp_path)
    assert [row["command"] for row in json.loads((tmp_path / "stages.json").read_text())] == [plan[0].command]


def test_a_failing_command_stops_the_run_and_the_other_lane(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(lanes, "_SILENCE", 0.05)  # shorter than any command takes to fail
    (tmp_path / "result").touch()
    waiting = ("bench", "startup", "--rounds", "1000")
    plan = [
        Stage("one", "Wait for long", "", waiting, tmp_path / "result", 1),
        Stage("two", "Train nothing", "", ("train", "experiment=no_such_thing"), tmp_path / "result", 1),
    ]
    began = time.monotonic()
    with pytest.raises(FiboError, match="train nothing"):
        run_stages(plan, tmp_path)
    assert time.monotonic() - began < 120
    shown = capfd.readouterr().out
    assert "two | fibo: " in shown and "no_such_thing" in shown
    assert re.search(r"^one \| \.\.\. \d+ s of about 1 s$", shown, re.MULTILINE)


def test_evaluation_seeds_are_not_those_of_the_demonstrations(tmp_path):
    plan = stages(tmp_path, episodes=20, workers=2, seed=0)
    (record,) = (stage.arguments for stage in plan if stage.arguments[:2] == ("demos", "record"))
    (rollout,) = (stage.arguments for stage in plan if stage.arguments[0] == "rollout")
    recorded = int(record[record.index("--episodes") + 1])
    first = int(rollout[rollout.index("--seed") + 1])
    assert first > 10 * recorded
