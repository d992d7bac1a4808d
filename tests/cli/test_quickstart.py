import json
import re

import pytest

from fibo_robot.cli.quickstart.command import Stage, run_stages, stages
from fibo_robot.errors import FiboError


def help_stage(tmp_path, command: str, result: str) -> Stage:
    """A stage that runs a real, quick command; its result is there or not."""
    return Stage(f"Ask {command} for help", "To see it.", (command, "--help"), tmp_path / result, expected=90)


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
    assert "Ask train for help (about 1 min 30 s)\nTo see it.\n$ fibo train --help" in shown
    assert len(re.findall(r"^took \d+ s$", shown, re.MULTILINE)) == 2
    run_stages([*plan, help_stage(tmp_path, "compare", "result")], tmp_path)
    assert "1 of 3 stages to run, about 1 min 30 s" in capfd.readouterr().out


def test_a_stage_without_its_result_stops_the_run_and_keeps_what_was_done(tmp_path):
    (tmp_path / "result").touch()
    plan = [help_stage(tmp_path, "train", "result"), help_stage(tmp_path, "demos", "absent")]
    with pytest.raises(FiboError, match="stage 2"):
        run_stages(plan, tmp_path)
    assert [row["command"] for row in json.loads((tmp_path / "stages.json").read_text())] == [plan[0].command]


def test_a_failing_command_stops_the_run(tmp_path):
    (tmp_path / "result").touch()
    stage = Stage("Train nothing", "", ("train", "experiment=no_such_thing"), tmp_path / "result", 1)
    with pytest.raises(FiboError, match="train nothing"):
        run_stages([stage], tmp_path)


def test_evaluation_seeds_are_not_those_of_the_demonstrations(tmp_path):
    plan = stages(tmp_path, episodes=20, workers=2, seed=0)
    (record,) = (stage.arguments for stage in plan if stage.arguments[:2] == ("demos", "record"))
    (rollout,) = (stage.arguments for stage in plan if stage.arguments[0] == "rollout")
    recorded = int(record[record.index("--episodes") + 1])
    first = int(rollout[rollout.index("--seed") + 1])
    assert first > 10 * recorded
