"""Comparisons: paired on common seeds, honest about training seeds, refused where they would mislead."""

import csv
import itertools
import json
from dataclasses import replace

import pytest
from scipy import stats

from fibo_robot.envs.results.comparison import ComparisonError, compare, load_method
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.rollouts.episodes import Episode

TASK = {"name": "lift", "horizon": 400, "cameras": ["agentview"]}


def evaluation(outcomes, first_seed=0, **task):
    """`outcomes`: one letter per seed, `s`olved, `f`ailed, or lost to the machinery (`e`)."""
    episodes = tuple(
        Episode(
            seed=seed,
            success_once=letter == "s",
            success_at_end=letter == "s",
            length=50,
            scene=f"scene-{seed}",
            error="lost" if letter == "e" else None,
            error_source="worker" if letter == "e" else None,
        )
        for seed, letter in enumerate(outcomes, start=first_seed)
    )
    return Evaluation(episodes, task={**TASK, **task}, rollout={"success_hold": 10})


def test_single_runs_are_paired_on_the_seeds_that_both_finished():
    a = evaluation("sssssssses" + "ffff")
    b = evaluation("sffffffssf" + "fffs")
    (pair,) = compare({"a": [a], "b": [b]}).pairs
    assert (pair.test, pair.common_seeds, pair.only_a, pair.only_b) == ("mcnemar", 13, 7, 1)
    assert pair.difference == pytest.approx(6 / 13)
    assert pair.p_value == pytest.approx(stats.binomtest(7, 8).pvalue)
    assert pair.low < pair.difference < pair.high
    assert pair.episodes_needed > 0


def test_an_episode_lost_to_the_machinery_is_no_failure_of_the_policy():
    row = compare({"a": [evaluation("ssse")]}).methods[0]
    assert (row.episodes, row.successes, row.success_rate, row.errors) == (3, 3, 1.0, 1)


def test_several_training_runs_are_compared_by_run_not_by_episode():
    strong = [evaluation("s" * n + "f" * (20 - n)) for n in (18, 16, 19)]
    weak = [evaluation("s" * n + "f" * (20 - n)) for n in (12, 15, 9)]
    comparison = compare({"strong": strong, "weak": weak})
    (pair,) = comparison.pairs
    expected = stats.ttest_ind([0.9, 0.8, 0.95], [0.6, 0.75, 0.45], equal_var=False)
    assert pair.test == "welch"
    assert pair.p_value == pytest.approx(expected.pvalue)
    assert (pair.low, pair.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert comparison.methods[0].runs == 3
    assert comparison.methods[0].success_rate == pytest.approx(53 / 60)


def test_p_values_of_several_pairs_are_adjusted_by_holm():
    a, b, c = evaluation("s" * 20), evaluation("s" * 12 + "f" * 8), evaluation("s" * 10 + "f" * 10)
    pairs = compare({"a": [a], "b": [b], "c": [c]}).pairs
    raw = [pair.p_value for pair in pairs]
    # By hand: sorted p-values times 3, 2, 1, made monotone.
    assert raw == pytest.approx([2 / 2**8, 2 / 2**10, 0.5])
    assert [pair.p_holm for pair in pairs] == pytest.approx([2 * raw[0], 3 * raw[1], raw[2]])


def test_adjusted_p_values_are_those_of_the_closed_bonferroni_test():
    """A pair is rejected if every set of pairs that holds it is: the set's smallest p times its size."""
    outcomes = ["s" * 30, "s" * 22 + "f" * 8, "s" * 15 + "f" * 15, "f" * 9 + "s" * 21]
    pairs = compare({str(index): [evaluation(row)] for index, row in enumerate(outcomes)}).pairs
    raw = [pair.p_value for pair in pairs]
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


def test_a_comparison_is_saved_as_json_csv_and_plot(tmp_path):
    compare({"a": [evaluation("ssss")], "b": [evaluation("sfsf")]}).save(tmp_path)
    values = json.loads((tmp_path / "comparison.json").read_text())
    assert values["methods"][1]["success_rate"] == 0.5
    with open(tmp_path / "pairs.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["difference"]) == 0.5
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison.json", "comparison.png", "methods.csv", "pairs.csv",
    ]  # fmt: skip


def test_a_method_is_named_after_its_run(tmp_path):
    label, paths = load_method(f"{tmp_path}/dense/rollouts")
    assert (label, len(paths)) == ("dense", 1)
    assert load_method(f"{tmp_path}/dense/rollouts/eval.json")[0] == "dense"
    label, paths = load_method("fibo=a,b")
    assert (label, [str(path) for path in paths]) == ("fibo", ["a", "b"])
