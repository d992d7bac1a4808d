"""The quickstart's report.html: what ran, how training went, how often the policy succeeded, and videos."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fibo_robot.cli.quickstart.lanes import longest_lane
from fibo_robot.envs.results.attention.report import add_masks
from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.results.report import add_evaluation, add_training
from fibo_robot.policies import load_policy
from fibo_robot.reporting import FIGURE_STYLE, KeyNumber, Report, VideoClip
from fibo_robot.statistics import format_interval, format_rate, wilson_interval
from fibo_robot.training.checkpoint import HISTORY, load_checkpoint


def write_report(output: Path, stages: Sequence[Mapping[str, Any]]) -> Path:
    """Write `output/report.html` from what the stages left in `output`; returns its path."""
    evaluation = Evaluation.load(output / "rollouts")
    checkpoint = load_checkpoint(output / "policy")
    videos, frames = final_accuracy(output / "classifier"), final_accuracy(output / "single_frame")
    clips = len((output / "classified.jsonl").read_text().splitlines())
    minutes = longest_lane([(stage["lane"], stage["seconds"]) for stage in stages]) / 60
    report = Report(
        "fibo_robot quickstart",
        "A Fibottention policy and a video classifier, trained and evaluated in this run.",
    )
    report.section("Results").key_numbers(
        [
            KeyNumber(
                "Lift success rate",
                format_rate(evaluation.success_rate),
                f"{evaluation.successes} of {len(evaluation.counted)} fresh seeds, "
                f"95 % interval {format_interval(*evaluation.interval)}",
            ),
            KeyNumber("Skill accuracy, video", format_rate(videos), _counted(videos, clips)),
            KeyNumber("The same on one frame, as a control", format_rate(frames), _counted(frames, clips)),
            KeyNumber("Time", f"{minutes:.1f} min", "two lanes of stages side by side, on this machine"),
        ]
    )
    demonstrations = checkpoint.meta["dataset"]["demos"]
    add_evaluation(
        report,
        evaluation,
        output / "rollouts",
        "The robot",
        f"Behaviour cloning on {demonstrations} scripted demonstrations: two 84-pixel cameras and "
        "proprioception, each camera with its own Fibottention encoder. Every evaluation episode starts from "
        "a seed that no demonstration used.",
    )
    add_training(report, {"policy": [evaluation]})
    _video(report, output)
    add_masks(
        report.section("The attention", "Each head attends along its own Fibonacci diagonals."),
        load_policy(output / "policy").image_encoders(),
    )
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
    return report.save(output / "report.html")


def final_accuracy(run_dir: Path) -> float:
    """Accuracy on held-out clips after the last epoch; no epoch is selected by it."""
    return history(run_dir)[-1]["valid/accuracy"]


def _counted(accuracy: float, clips: int) -> str:
    right = round(accuracy * clips)
    interval = format_interval(*wilson_interval(right, clips))
    return f"{right} of {clips} held-out clips, 95 % interval {interval}"


def history(run_dir: Path) -> list[dict[str, float]]:
    """The metrics of every epoch of a training run."""
    return json.loads((run_dir / HISTORY).read_text(encoding="utf-8"))


def _video(report: Report, output: Path) -> None:
    section = report.section(
        "The video classifier",
        "Clips of robot skills whose label lies in the motion: each class has a partner that shows the same "
        "kind of pictures in the opposite order. The control sees one frame of each clip.",
    )
    runs = {"video": output / "classifier", "one frame": output / "single_frame"}
    section.figure(_accuracies(runs), "Accuracy on held-out episodes over training.")
    predictions = [json.loads(line) for line in (output / "classified.jsonl").read_text().splitlines()]
    with (output / "skills" / "clips.csv").open(newline="", encoding="utf-8") as stream:
        labels = {Path(row["path"]).name: row["label"] for row in csv.DictReader(stream)}
    shown: dict[str, VideoClip] = {}
    for row in predictions:
        label, best = labels[Path(row["path"]).name], row["predictions"][0]
        caption = f"{label}: classified as {best['label']} ({best['probability']:.0%})"
        shown.setdefault(label, VideoClip(row["path"], caption, best["label"] == label))
    section.videos(list(shown.values()))


def _accuracies(runs: Mapping[str, Path]) -> Figure:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for name, run_dir in runs.items():
            rows = [row for row in history(run_dir) if "valid/accuracy" in row]
            axes.plot([row["step"] for row in rows], [row["valid/accuracy"] for row in rows], label=name)
        axes.set_xlabel("training step")
        axes.set_ylabel("accuracy")
        axes.legend()
    return figure
