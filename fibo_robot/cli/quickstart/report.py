"""The quickstart's report.html: what ran, how training went, how often the policy succeeded, and videos."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.figure import Figure

from fibo_robot.attention.pictures import mask_figure
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.policies import load_policy
from fibo_robot.policies.models.bc import BehaviourCloning
from fibo_robot.reporting import FIGURE_STYLE, KeyNumber, Report, VideoClip
from fibo_robot.statistics import wilson_interval
from fibo_robot.training.checkpoint import HISTORY, load_checkpoint


def write_report(output: Path, stages: Sequence[Mapping[str, Any]]) -> Path:
    """Write `output/report.html` from what the stages left in `output`; returns its path."""
    evaluation = Evaluation.load(output / "rollouts")
    checkpoint = load_checkpoint(output / "policy")
    videos, frames = final_accuracy(output / "classifier"), final_accuracy(output / "single_frame")
    clips = len((output / "classified.jsonl").read_text().splitlines())
    low, high = evaluation.interval
    minutes = sum(float(stage["seconds"]) for stage in stages) / 60
    report = Report(
        "fibo_robot quickstart",
        "A Fibottention policy and a video classifier, trained and evaluated in this run.",
    )
    report.section("Results").key_numbers(
        [
            KeyNumber(
                "Lift success rate",
                f"{evaluation.success_rate:.0%}",
                f"{evaluation.successes} of {len(evaluation.counted)} fresh seeds, "
                f"95 % interval {low:.0%} to {high:.0%}",
            ),
            KeyNumber("Skill accuracy, video", f"{videos:.0%}", _counted(videos, clips)),
            KeyNumber("The same on one frame, as a control", f"{frames:.0%}", _counted(frames, clips)),
            KeyNumber("Time", f"{minutes:.1f} min", "all stages, on this machine"),
        ]
    )
    _robot(report, output, evaluation, checkpoint.meta["dataset"]["demos"])
    _video(report, output)
    _attention(report, load_policy(output / "policy"))
    rows = [
        {"stage": stage["title"], "command": stage["command"], "seconds": round(float(stage["seconds"]))}
        for stage in stages
    ]
    ran = report.section("What ran", "Each stage is a command that works by itself.")
    ran.table(rows, {"stage": "Stage", "command": "Command", "seconds": "Seconds"})
    ran.table(
        [{"package": name, "version": version} for name, version in checkpoint.meta["versions"].items()],
        {"package": "Package", "version": "Version"},
        caption="Versions",
        collapsed=True,
    )
    ran.config(yaml.safe_dump(checkpoint.config, sort_keys=False), "Configuration of the policy's training")
    return report.save(output / "report.html")


def final_accuracy(run_dir: Path) -> float:
    """Accuracy on held-out clips after the last epoch; no epoch is selected by it."""
    return history(run_dir)[-1]["valid/accuracy"]


def _counted(accuracy: float, clips: int) -> str:
    right = round(accuracy * clips)
    low, high = wilson_interval(right, clips)
    return f"{right} of {clips} held-out clips, 95 % interval {low:.0%} to {high:.0%}"


def history(run_dir: Path) -> list[dict[str, float]]:
    """The metrics of every epoch of a training run."""
    return json.loads((run_dir / HISTORY).read_text(encoding="utf-8"))


def _robot(report: Report, output: Path, evaluation: Evaluation, demonstrations: int) -> None:
    section = report.section(
        "The robot",
        f"Behaviour cloning on {demonstrations} scripted demonstrations: two 84-pixel cameras and "
        "proprioception, each camera with its own Fibottention encoder. Every evaluation episode starts from "
        "a seed that no demonstration used.",
    )
    section.figure(
        _curves(
            {"training": (output / "policy", "train/loss"), "validation": (output / "policy", "valid/loss")}
        ),
        "Negative log-likelihood per action of the policy over training.",
    )
    folder = output / "rollouts"
    section.videos(
        [
            VideoClip(
                folder / episode.video, f"Seed {episode.seed}, {episode.length} steps", episode.success_once
            )
            for episode in evaluation.episodes
            if episode.video
        ]
    )
    section.table(
        [
            {
                "seed": episode.seed,
                "success": episode.success_once,
                "at end": episode.success_at_end,
                "first success at step": episode.first_success,
                "steps": episode.length,
            }
            for episode in evaluation.episodes
        ],
        caption=f"All {len(evaluation.episodes)} episodes",
        collapsed=True,
    )


def _video(report: Report, output: Path) -> None:
    section = report.section(
        "The video classifier",
        "Clips of robot skills whose label lies in the motion: each class has a partner that shows the same "
        "kind of pictures in the opposite order. The control sees one frame of each clip.",
    )
    runs = {
        "video": (output / "classifier", "valid/accuracy"),
        "one frame": (output / "single_frame", "valid/accuracy"),
    }
    section.figure(_curves(runs, "accuracy"), "Accuracy on held-out episodes over training.")
    predictions = [json.loads(line) for line in (output / "classified.jsonl").read_text().splitlines()]
    with (output / "skills" / "clips.csv").open(newline="", encoding="utf-8") as stream:
        labels = {Path(row["path"]).name: row["label"] for row in csv.DictReader(stream)}
    shown: dict[str, VideoClip] = {}
    for row in predictions:
        label, best = labels[Path(row["path"]).name], row["predictions"][0]
        caption = f"{label}: classified as {best['label']} ({best['probability']:.0%})"
        shown.setdefault(label, VideoClip(row["path"], caption, best["label"] == label))
    section.videos(list(shown.values()))


def _attention(report: Report, policy: BehaviourCloning) -> None:
    encoder = next(iter(policy.observation.encoders.values()))
    options = encoder.attention.to_dict()
    section = report.section(
        "The attention",
        "Each head attends along its own Fibonacci diagonals: which patch (column) each patch (row) of the "
        f"policy's encoder looks at, head by head, by the rule `{options['rule']}`.",
    )
    with matplotlib.rc_context(FIGURE_STYLE):
        heads = encoder.vit.blocks[0].attn.num_heads
        figure = mask_figure(encoder.num_patches, heads, options["rule"], grid=encoder.grid_size)
    section.figure(figure, "Above, the heads' masks; below, what the middle patch sees.")


def _curves(runs: Mapping[str, tuple[Path, str]], label: str = "loss") -> Figure:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for name, (run_dir, metric) in runs.items():
            rows = [row for row in history(run_dir) if metric in row]
            axes.plot([row["step"] for row in rows], [row[metric] for row in rows], label=name)
        axes.set_xlabel("training step")
        axes.set_ylabel(label)
        axes.legend()
    return figure
