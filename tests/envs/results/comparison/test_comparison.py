"""Comparisons: paired on common seeds, honest about training seeds, refused where they would mislead."""

import csv
import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from fibo_robot.cli.main import app
from fibo_robot.envs.errors import ComparisonError
from fibo_robot.envs.results.comparison.compare import compare
from fibo_robot.envs.results.comparison.report import cost_rows
from tests.envs.results.evaluations import evaluation, last, saved_checkpoints


def test_single_runs_are_paired_on_the_seeds_that_both_finished():
    a = evaluation("sssssssses" + "ffff")
    b = evaluation("sffffffssf" + "fffs")
    (pair,) = compare({"a": [a], "b": [b]}).pairs
    assert (pair.test, pair.common_seeds, pair.only_a, pair.only_b) == ("mcnemar", 13, 7, 1)
    assert pair.difference == pytest.approx(6 / 13)
    assert pair.p_value == pytest.approx(stats.binomtest(7, 8).pvalue)
    assert pair.low is not None and pair.high is not None and pair.low < pair.difference < pair.high
    assert pair.episodes_needed is not None and pair.episodes_needed > 0


def test_an_episode_lost_to_the_machinery_is_no_failure_of_the_policy():
    row = compare({"a": [evaluation("ssse")]}).methods[0]
    assert (row.episodes, row.successes, row.success_rate, row.errors) == (3, 3, 1.0, 1)


def spread_out(*counts, seeds=20):
    """A run for each count, so many of its episodes solved, in an order that no run shares with another."""
    generator = np.random.default_rng(3)
    return [
        evaluation("".join(generator.permutation(list("s" * count + "f" * (seeds - count)))))
        for count in counts
    ]


def test_several_training_runs_are_compared_by_run_not_by_episode():
    """Scenes decide nothing here, so that the seeds add nothing to Welch's test over runs."""
    comparison = compare({"strong": spread_out(18, 16, 19), "weak": spread_out(12, 15, 9)})
    (pair,) = comparison.pairs
    expected = np.asarray(stats.ttest_ind([0.9, 0.8, 0.95], [0.6, 0.75, 0.45], equal_var=False))
    assert (pair.test, pair.common_seeds, pair.only_a, pair.episodes_needed) == ("runs", 20, None, None)
    assert pair.p_value == pytest.approx(expected[1])
    assert comparison.methods[0].runs == 3
    assert comparison.methods[0].success_rate == pytest.approx(53 / 60)


def test_several_training_runs_are_compared_on_the_seeds_that_all_of_them_finished():
    """The last five seeds, solved by `a` alone, were lost by a run of `b`: nothing rests on them."""
    a = [evaluation("ssfs" * 5 + "sssss"), evaluation("sfss" * 5 + "sssss")]
    b = [evaluation("sfff" * 5 + "fffff"), evaluation("fffs" * 5 + "eeeee")]
    (pair,) = compare({"a": a, "b": b}).pairs
    assert pair.common_seeds == 20
    assert pair.difference == pytest.approx(0.75 - 0.25)
    shorter = compare({"a": [first_episodes(run) for run in a], "b": [first_episodes(run) for run in b]})
    assert pair == shorter.pairs[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"policy": {"weights": "ab"}}, {"policy": {"weights": "ab"}}),
        (
            {"policy": {"weights": "ab"}, "training": {"config": {"seed": 0, "run_dir": "runs/a"}}},
            {"policy": {"weights": "cd"}, "training": {"config": {"seed": 0, "run_dir": "runs/a"}}},
        ),
    ],
)
def test_one_training_is_not_two(first, second):
    """It would agree with itself, and its luck be taken for the method's."""
    one, again = replace(evaluation("sssf"), **first), replace(evaluation("ssff"), **second)
    with pytest.raises(ComparisonError, match="Two of the training runs of a are one"):
        compare({"a": [one, again], "b": spread_out(3, 2, seeds=4)})
    other = replace(again, policy={"weights": "ef"}, training={"config": {"seed": 1, "run_dir": "runs/b"}})
    assert compare({"a": [one, other]}).methods[0].runs == 2


def test_different_simulators_are_named():
    """MuJoCo Warp on a CPU repeats bit for bit, and rounds otherwise than MuJoCo."""
    ours, theirs = (
        replace(evaluation("sssf"), rollout={"success_hold": 10, "simulation": simulation})
        for simulation in ("mujoco", "mujoco_warp 3.9.0.1 on cpu")
    )
    (note,) = compare({"a": [ours], "b": [theirs]}).notes
    assert "different simulations: mujoco (a), mujoco_warp 3.9.0.1 on cpu (b)" in note
    assert not compare({"a": [ours], "b": [ours]}).notes


def first_episodes(run, count=20):
    return replace(run, episodes=run.episodes[:count])


def test_training_runs_on_the_same_seeds_are_less_sure_than_on_their_own():
    """Every run solves the same scenes: what looks like 60 episodes are 20."""
    same = [evaluation("s" * 14 + "f" * 6) for _ in range(3)]
    own = [evaluation("s" * 14 + "f" * 6, first_seed=100 * run) for run in range(3)]
    (shared,), (separate,) = compare({"a": same}).methods, compare({"a": own}).methods
    assert shared.success_rate == separate.success_rate
    assert shared.high - shared.low > 1.5 * (separate.high - separate.low)


def test_p_values_of_several_pairs_are_adjusted_by_holm():
    a, b, c = evaluation("s" * 20), evaluation("s" * 12 + "f" * 8), evaluation("s" * 10 + "f" * 10)
    pairs = compare({"a": [a], "b": [b], "c": [c]}).pairs
    raw = [pair.p_value for pair in pairs if pair.p_value is not None]
    # By hand: sorted p-values times 3, 2, 1, made monotone.
    assert raw == pytest.approx([2 / 2**8, 2 / 2**10, 0.5])
    assert [pair.p_holm for pair in pairs] == pytest.approx([2 * raw[0], 3 * raw[1], raw[2]])


def test_adjusted_p_values_are_those_of_the_closed_bonferroni_test():
    """A pair is rejected if every set of pairs that holds it is: the set's smallest p times its size."""
    outcomes = ["s" * 30, "s" * 22 + "f" * 8, "s" * 15 + "f" * 15, "f" * 9 + "s" * 21]
    pairs = compare({str(index): [evaluation(row)] for index, row in enumerate(outcomes)}).pairs
    raw = [pair.p_value for pair in pairs if pair.p_value is not None]
    for index, pair in enumerate(pairs):
        sets = [
            chosen
            for size in range(1, len(raw) + 1)
            for chosen in itertools.combinations(range(len(raw)), size)
            if index in chosen
        ]
        adjusted = max(min(1.0, len(chosen) * min(raw[place] for place in chosen)) for chosen in sets)
        assert pair.p_holm == pytest.approx(adjusted)
    assert len(set(raw)) > 3


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (evaluation("ssff", horizon=100), "another task"),
        (replace(evaluation("ssff"), rollout={"success_hold": None}), "another success hold"),
        (evaluation("ssff", first_seed=90), "no common seeds"),
        (evaluation("eeee"), "no episode that counts"),
    ],
)
def test_what_would_mislead_is_refused(other, reason):
    with pytest.raises(ComparisonError, match=reason):
        compare({"a": [evaluation("sfsf")], "b": [other]})


def test_seeds_that_begin_in_different_scenes_do_not_pair():
    b = evaluation("ssff")
    moved = replace(b, episodes=(*b.episodes[:3], replace(b.episodes[3], scene="elsewhere")))
    with pytest.raises(ComparisonError, match="Seed 3 begins in different scenes"):
        compare({"a": [evaluation("sfsf")], "b": [moved]})


def test_one_run_beside_several_is_refused():
    with pytest.raises(ComparisonError, match="single run"):
        compare({"a": [evaluation("sf")], "b": [evaluation("sf"), evaluation("ss")]})


def test_policies_that_see_different_things_can_still_be_compared():
    blind = evaluation("sfsf", cameras=[])
    assert compare({"a": [evaluation("ssss")], "b": [blind]}).pairs[0].common_seeds == 4


def test_different_versions_are_compared_and_named():
    old = replace(evaluation("ssff"), versions={"mujoco": "3.3.1", "torch": "2.9"})
    new = replace(evaluation("sfsf"), versions={"mujoco": "3.9.0", "torch": "2.9"})
    assert compare({"a": [old], "b": [old]}).notes == ()
    (note,) = compare({"a": [old], "b": [new], "c": [new]}).notes
    assert "mujoco: 3.3.1 (a), 3.9.0 (b, c)" in note


def test_another_task_than_the_policys_own_and_inexact_simulation_are_named():
    plain = evaluation("ssff")
    moved = replace(plain, other_task={"horizon": [400, 100]})
    inexact = replace(plain, rollout={"success_hold": 10, "reproducible": False})
    notes = compare({"a": [plain], "b": [moved], "c": [inexact]}).notes
    assert notes[0].startswith("b: This is not the task that the policy was trained for: horizon was 400")
    assert notes[1].startswith("c: its simulation is not exact")
    assert len(notes) == 2


def test_the_same_weights_rolled_out_twice_show_what_the_simulation_leaves_to_chance():
    first = replace(evaluation("ssffs"), policy={"weights": "1234"})
    episodes = list(evaluation("sssfe").episodes)
    episodes[0] = replace(episodes[0], trace="other", length=51)
    second = replace(first, episodes=tuple(episodes))
    third = replace(first, policy={"weights": "5678"})
    (note,) = compare({"a": [first], "b": [second], "c": [third]}).notes
    assert note == (
        "a and b have the same weights: of 4 common seeds 1 ended otherwise, 3 took the same number of "
        "steps, 3 are equal bit for bit."
    )


def test_a_long_comparison_one_success_apart_is_quick():
    """Seeds needed used to be counted up one by one: two minutes for 200 episodes."""
    outcomes = np.array(["s"] * 1000)
    outcomes[:100] = "f"
    other = outcomes.copy()
    other[50:149] = np.where(other[50:149] == "s", "f", "s")  # 99 seeds differ, 50 to 49
    started = time.process_time()
    (pair,) = compare({"a": [evaluation("".join(outcomes))], "b": [evaluation("".join(other))]}).pairs
    assert (pair.only_a, pair.only_b) == (49, 50)
    assert time.process_time() - started < 5
    assert pair.episodes_needed is not None and 700_000 < pair.episodes_needed < 800_000


def test_a_comparison_is_saved_as_json_csv_and_plot(tmp_path):
    compare({"a": [evaluation("ssss")], "b": [evaluation("sfsf")]}).save(tmp_path)
    values = json.loads((tmp_path / "comparison.json").read_text())
    assert values["methods"][1]["success_rate"] == 0.5
    assert values["notes"] == []
    with open(tmp_path / "pairs.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["difference"]) == 0.5
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison.json", "comparison.png", "methods.csv", "pairs.csv",
    ]  # fmt: skip


def test_checkpoints_of_a_run_are_one_run():
    """Repeating a run's checkpoint adds nothing: not as if there were three times as many runs or seeds."""
    rows = {"a": ["sssf" * 5, "ssfs" * 5, "sfsf" * 5], "b": ["fssf" * 5, "ffss" * 5, "sfff" * 5]}
    once = compare({label: [evaluation(row) for row in runs] for label, runs in rows.items()})
    thrice = compare({label: [last(row, row, row) for row in runs] for label, runs in rows.items()})
    assert thrice.pairs == once.pairs
    for many, one in zip(thrice.methods, once.methods):
        assert (many.success_rate, many.low, many.high) == (one.success_rate, one.low, one.high)
        assert (many.runs, many.checkpoints, many.episodes) == (3, 3, 3 * one.episodes)


def test_a_runs_outcome_on_a_seed_is_the_mean_of_its_checkpoints():
    runs = {
        "a": [last("ssff", "sfff"), last("sssf", "sssf")],
        "b": [last("ffff", "fffs"), last("sfff", "sfff")],
    }
    comparison = compare(runs)
    assert [row.success_rate for row in comparison.methods] == pytest.approx([9 / 16, 3 / 16])
    (pair,) = comparison.pairs
    assert (pair.test, pair.common_seeds, pair.difference) == ("runs", 4, pytest.approx(6 / 16))


def test_single_runs_of_several_checkpoints_are_compared_over_seeds():
    a, b = ["ssssfssf", "sssfssff"], ["fssffsff", "fsfffssf"]
    (pair,) = compare({"a": [last(*a)], "b": [last(*b)]}).pairs
    assert (pair.test, pair.common_seeds, pair.only_a, pair.episodes_needed) == ("checkpoints", 8, None, None)
    assert pair.difference == pytest.approx(5 / 16)
    shares = [np.mean([[letter == "s" for letter in row] for row in rows], axis=0) for rows in (a, b)]
    gaps = (shares[0] - shares[1])[shares[0] != shares[1]]
    flips = [abs(np.dot(signs, gaps)) for signs in itertools.product([1, -1], repeat=len(gaps))]
    assert pair.p_value == pytest.approx(np.mean(np.array(flips) >= gaps.sum() - 1e-9))


def test_runs_of_other_numbers_of_checkpoints_are_refused():
    with pytest.raises(ComparisonError, match=r"judged by 1 of its checkpoints, another by 2.*same --last"):
        compare({"a": [evaluation("sfsf")], "b": [last("sfsf", "ssff")]})


def test_checkpoints_that_lost_each_others_seeds_leave_nothing_to_compare():
    with pytest.raises(ComparisonError, match="b has no episode that counts"):
        compare({"a": [last("sf", "ss")], "b": [last("se", "es")]})


def test_the_command_compares_methods_of_several_runs_with_several_checkpoints(tmp_path):
    for name in ("a0", "a1", "b0", "b1"):
        saved_checkpoints(tmp_path / name)
    methods = [f"{label}={tmp_path}/{label}0,{tmp_path}/{label}1" for label in "ab"]
    result = CliRunner().invoke(app, ["compare", *methods, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(row["runs"], row["checkpoints"], row["episodes"]) for row in values["methods"]] == [
        (2, 2, 16)
    ] * 2
    assert values["pairs"][0]["test"] == "runs"
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"{label}, training run 2, epoch_00001" in page for label in "ab")


def test_what_training_took_stands_beside_success_where_every_run_tells(tmp_path):
    def trained(seconds, memory):
        cost = {"seconds": seconds, "cpu_seconds": 2 * seconds, "memory_mb": memory}
        return replace(evaluation("sssf"), training={"cost": cost})

    known, unknown = [trained(60, 500.0), trained(180, 700.0)], [trained(60, 500.0), evaluation("ssff")]
    comparison = compare({"known": known, "unknown": unknown})
    assert cost_rows(comparison) == [
        {"Method": "known", "Training, min": "2.0", "Processor, min": "4.0", "Memory, MiB": "700"}
    ]
    comparison.save(tmp_path)
    row = json.loads((tmp_path / "comparison.json").read_text())["methods"][0]
    assert (row["training_minutes"], row["training_cpu_minutes"], row["training_memory_mb"]) == (2, 4, 700)
