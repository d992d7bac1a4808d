"""What rollouts wrote is found by its name and read back as it was, or refused."""

import json

import pytest

from fibo_robot.envs.results.evaluation import Evaluation, EvaluationError
from fibo_robot.envs.results.runs import LAST_FILE, load_method, load_run
from tests.envs.results.evaluations import evaluation, saved_checkpoints


def test_a_method_is_named_after_its_run(tmp_path):
    label, paths = load_method(f"{tmp_path}/dense/rollouts")
    assert (label, len(paths)) == ("dense", 1)
    assert load_method(f"{tmp_path}/dense/rollouts/eval.json")[0] == "dense"
    label, paths = load_method("fibo=a,b")
    assert (label, [str(path) for path in paths]) == ("fibo", ["a", "b"])


def test_a_path_may_hold_an_equals_sign_or_a_comma(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/seed=0/rollouts", "runs/seed=1/rollouts", "seed=0/rollouts", "lr=1,2"):
        (tmp_path / folder).mkdir(parents=True)
    found = {
        argument: (label, [str(path) for path in paths])
        for argument in (
            "seed=0/rollouts",
            "runs/seed=0/rollouts",
            "runs/seed=0/rollouts,runs/seed=1/rollouts",
            "fibo=seed=0/rollouts",
            "fibo=runs/seed=0/rollouts,runs/seed=1/rollouts",
            "fibo=lr=1,2",
        )
        for label, paths in [load_method(argument)]
    }
    both = ["runs/seed=0/rollouts", "runs/seed=1/rollouts"]
    assert found == {
        "seed=0/rollouts": ("seed=0", ["seed=0/rollouts"]),
        "runs/seed=0/rollouts": ("seed=0", both[:1]),
        "runs/seed=0/rollouts,runs/seed=1/rollouts": ("seed=0", both),
        "fibo=seed=0/rollouts": ("fibo", ["seed=0/rollouts"]),
        "fibo=runs/seed=0/rollouts,runs/seed=1/rollouts": ("fibo", both),
        "fibo=lr=1,2": ("fibo", ["lr=1,2"]),
    }


DAMAGE = {
    "no episodes": (lambda values: values.pop("per_episode"), "no 'per_episode'"),
    "no versions": (lambda values: values.pop("versions"), "no 'versions'"),
    "an episode without seed": (lambda values: values["per_episode"][1].pop("seed"), "seed"),
    "an episode that is no row": (lambda values: values["per_episode"].append(3), "incomplete or damaged"),
    "a seed twice": (lambda values: values["per_episode"].append(values["per_episode"][0]), "more than one"),
    "a task without name": (lambda values: values["task"].clear(), "task has no name"),
    "a success that is a word": (
        lambda values: values["per_episode"][0].update(success_once="yes"),
        "success 'yes'",
    ),
    "a session of another kind": (
        lambda values: values["sessions"].append({"x": 1}),
        "incomplete or damaged",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_incomplete_or_damaged_evaluation_is_refused(tmp_path, kind):
    damage, words = DAMAGE[kind]
    path = evaluation("sfs").save(tmp_path)
    assert Evaluation.load(tmp_path).success_rate == pytest.approx(2 / 3)
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(EvaluationError, match=words) as refused:
        Evaluation.load(tmp_path)
    assert str(path) in str(refused.value) and "fibo rollout" in str(refused.value)


def test_what_rollout_last_wrote_is_read_back_as_one_run(tmp_path):
    folder = tmp_path / "dense" / "rollouts"
    found = saved_checkpoints(folder)
    assert load_run(folder) == load_run(folder / LAST_FILE) == found
    assert load_method(str(folder / LAST_FILE))[0] == load_method(str(folder))[0] == "dense"
    assert load_run(folder / "epoch_00001") == found.evaluations["epoch_00001"]


def test_a_folder_of_both_kinds_of_results_is_refused(tmp_path):
    saved_checkpoints(tmp_path)
    evaluation("sf").save(tmp_path)
    with pytest.raises(EvaluationError, match=r"name .*eval\.json or .*last\.json"):
        load_run(tmp_path)


def test_last_checkpoints_whose_evaluations_have_changed_are_refused(tmp_path):
    saved_checkpoints(tmp_path)
    evaluation("ssss").save(tmp_path / "epoch_00002")
    with pytest.raises(EvaluationError, match="not the mean of the evaluations beside it"):
        load_run(tmp_path)
    (tmp_path / LAST_FILE).write_text('{"checkpoints": 3}')
    with pytest.raises(EvaluationError, match=r"last\.json cannot be read"):
        load_run(tmp_path)
