"""The report names every problem, shows the videos, and holds what the result rests on."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fibo_robot.attention.wythoff import layer_order
from fibo_robot.encoders import create_encoder
from fibo_robot.envs.results.attention.overlay import SeenImage
from fibo_robot.envs.results.attention.report import AttentionView, add_attention
from fibo_robot.envs.results.comparison.compare import compare
from fibo_robot.envs.results.comparison.report import add_comparison
from fibo_robot.envs.results.report import write_evaluation_report, write_videos_grid
from fibo_robot.envs.rollouts.api import Timeouts, rollout
from fibo_robot.reporting import Report
from tests.envs.toy_policy import ToyPolicy
from tests.envs.toy_task import Fault, ToyTask

SEEDS = range(200, 206)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """Six episodes: one whose worker is killed, one that never runs, one with NaN, one whose worker hangs.

    Of the last two a file cannot be written each.
    """
    folder = tmp_path_factory.mktemp("run")
    marks = folder / "marks"
    marks.mkdir()
    faults = (
        Fault(201, "kill", str(marks)),
        Fault(202, "raise", str(marks), times=99),
        Fault(204, "hang", str(marks)),
    )
    policy = ToyPolicy(ToyTask().shape_meta(), noise=0.2, nan_seed=203)
    (folder / "videos").mkdir()
    (folder / "videos" / "seed_000205_success.mp4").mkdir()  # in the way of the video
    (folder / "action_traces" / "seed_000204.json").mkdir(parents=True)  # in the way of the actions
    evaluation = rollout(
        policy,
        ToyTask(faults=faults),
        SEEDS,
        workers=2,
        output=folder,
        videos=6,
        timeouts=Timeouts(start=120.0, command=1.5),
        policy_info={"checkpoint": "toy", "device": "cpu"},
        notes=["3 of 3 demonstrations still succeed."],
        training={
            "config": {"optimizer": {"lr": 0.125}},
            "history": [
                {"epoch": 1, "step": 10, "train/loss": 2.0},
                {"epoch": 2, "step": 20, "train/loss": 1.0, "valid/loss": 1.5},
            ],
        },
    )
    return evaluation, folder


def test_every_trouble_is_named_where_it_happened(troubled):
    evaluation, folder = troubled
    page = write_evaluation_report(evaluation, folder).read_text(encoding="utf-8")
    assert "Seed 201 was run again: The worker process was killed" in page
    assert "Seed 202 does not count: The worker failed 3 times. ArithmeticError: the physics exploded" in page
    assert "Seed 203 counts as a failure: The policy (ToyPolicy) returned actions that are not finite" in page
    assert "Seed 204 was run again: The worker did not answer for 1.5 s" in page
    assert "The video seed_000205_success.mp4 could not be written" in page
    assert "The action trace seed_000204.json could not be written: Is a directory" in page
    assert page.index("3 of 3 demonstrations still succeed.") < page.index("Success rate")


def test_videos_are_embedded_and_named_by_outcome(troubled):
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


def test_a_grid_that_cannot_be_written_is_named_too(troubled, tmp_path):
    evaluation, folder = troubled
    for name in ("videos", "action_traces"):
        shutil.copytree(folder / name, tmp_path / name)
    assert write_videos_grid(evaluation, tmp_path) == []
    (tmp_path / "videos" / "grid.mp4").unlink()
    (tmp_path / "videos" / "grid.mp4").mkdir()
    problems = write_videos_grid(evaluation, tmp_path)
    page = write_evaluation_report(evaluation, tmp_path, problems=problems).read_text(encoding="utf-8")
    assert "The video grid.mp4 could not be written: Is a directory" in page


def test_rate_interval_and_versions_are_on_the_page(troubled):
    evaluation, folder = troubled
    assert len(evaluation.counted) == 5
    page = write_evaluation_report(evaluation, folder).read_text(encoding="utf-8")
    low, high = (f"{100 * end:.1f}" for end in evaluation.interval)
    assert f"{evaluation.successes} of 5; 95 %: {low} to {high}\N{NO-BREAK SPACE}%" in page
    for text in ("version: mujoco", "rollout: batch_size", "policy: checkpoint"):
        assert text in page


def test_a_comparison_shows_methods_and_pairs(troubled, tmp_path):
    evaluation, _ = troubled
    report = Report("Comparison")
    add_comparison(report, compare({"one": [evaluation], "two": [evaluation]}))
    page = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "one − two" in page
    assert "+0.0 (-" in page


def test_actions_of_recorded_episodes_and_the_policys_training_are_on_the_page(troubled):
    evaluation, folder = troubled
    page = write_evaluation_report(evaluation, folder).read_text(encoding="utf-8")
    outcomes = {e.seed: "solved" if e.success_once else "not solved" for e in evaluation.episodes}
    for seed in (200, 201, 205):
        assert f"Seed {seed}, {outcomes[seed]}: actions and decisions" in page
    for seed in (202, 203, 204):  # lost, ended at its first decision, not written
        assert f"Seed {seed}, {outcomes[seed]}: actions and decisions" not in page
    assert "Loss on the demonstrations" in page
    assert "Configuration of the training: toy" in page and "lr: 0.125" in page
    bare = write_evaluation_report(replace(evaluation, training={}), folder).read_text(encoding="utf-8")
    assert "Loss on the demonstrations" not in bare


def seen_by(attention: str) -> AttentionView:
    encoder = create_encoder("vit_micro", attention=attention, image_size=24).eval()
    weights = tuple(torch.rand(4, 5, 5) for _ in range(4))
    image = SeenImage("top_image", np.zeros((24, 24, 3), np.uint8), weights, (2, 2), 1)
    return AttentionView(200, [image], {"top_image": encoder})


def test_every_head_is_shown_and_the_masks_where_there_are_masks():
    pages = {}
    for attention in ("fibottention", "softmax"):
        report = Report("Attention")
        add_attention(report, seen_by(attention))
        pages[attention] = report.to_html()
        assert "top_image, layer 4" in pages[attention]
        assert "Layer 4, heads 1 to 4, row by row" in pages[attention]
    assert "masks by the rule paper (top_image)" in pages["fibottention"]
    assert "masks by the rule" not in pages["softmax"]
    orders = [[index + 1 for index in layer_order(layer, 4)] for layer in range(4)]
    for layer, order in enumerate(orders, start=1):
        cells = "".join(f'<td class="number">{value}</td>' for value in (layer, *order))
        assert cells in pages["fibottention"]
    assert len(set(map(tuple, orders))) > 1
