"""The report names every trouble, shows the films, and holds what the result rests on."""

from pathlib import Path

import pytest
from toy_policy import ToyPolicy
from toy_task import Fault, ToyTask

from fibo_robot.envs.comparison import compare
from fibo_robot.envs.report import add_comparison, write_evaluation_report
from fibo_robot.envs.rollouts import rollout
from fibo_robot.reporting import Report

SEEDS = range(200, 206)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """Six episodes: one begun again, one that never runs, one with NaN, one without its film."""
    folder = tmp_path_factory.mktemp("run")
    marks = folder / "marks"
    marks.mkdir()
    faults = (Fault(201, "kill", str(marks)), Fault(202, "raise", str(marks), times=99))
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2, nan_seed=203)
    (folder / "videos").mkdir()
    (folder / "videos" / "seed_000205_success.mp4").mkdir()  # in the way of the film
    evaluation = rollout(
        policy,
        ToyTask(faults=faults),
        SEEDS,
        workers=2,
        output=folder,
        videos=6,
        policy_info={"checkpoint": "toy", "device": "cpu"},
        notes=["3 of 3 demonstrations still succeed."],
    )
    return evaluation, folder


def test_every_trouble_is_named_where_it_happened(troubled):
    evaluation, folder = troubled
    page = write_evaluation_report(evaluation, folder).read_text(encoding="utf-8")
    assert "Seed 201 was run again: The worker process was killed" in page
    assert "Seed 202 does not count: The worker failed 3 times. ArithmeticError: the physics exploded" in page
    assert "Seed 203 counts as a failure: The policy (ToyPolicy) returned actions that are not finite" in page
    assert "The video seed_000205_success.mp4 could not be written" in page
    assert "3 of 3 demonstrations still succeed." in page


def test_films_are_embedded_and_named_by_outcome(troubled):
    evaluation, folder = troubled
    names = {Path(episode.video).name for episode in evaluation.episodes if episode.video}
    expected = {
        f"seed_{episode.seed:06d}_{'success' if episode.success_once else 'failure'}.mp4"
        for episode in evaluation.episodes
        if episode.seed in (200, 201, 204)
    }
    assert names == expected | {"seed_000203_error.mp4"}
    page = write_evaluation_report(evaluation, folder).read_text(encoding="utf-8")
    assert page.count("data:video/mp4;base64,") == 4


def test_rate_interval_and_versions_are_on_the_page(troubled):
    evaluation, folder = troubled
    assert len(evaluation.counted) == 5
    page = write_evaluation_report(evaluation, folder).read_text(encoding="utf-8")
    assert f"{evaluation.successes} of 5; 95 %:" in page
    for text in ("version: mujoco", "rollout: batch_size", "policy: checkpoint"):
        assert text in page


def test_a_comparison_shows_methods_and_pairs(troubled, tmp_path):
    evaluation, _ = troubled
    report = Report("Comparison")
    add_comparison(report, compare({"one": [evaluation], "two": [evaluation]}))
    page = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "one − two" in page
    assert "+0.0 points" in page
