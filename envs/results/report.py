"""An evaluation's part of a report: the rate with its interval, videos, failures, what it all rests on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from fibo_robot.envs.results.evaluation import Evaluation
from fibo_robot.envs.results.figures import (
    action_figure,
    curves_figure,
    positions_figure,
    time_figure,
)
from fibo_robot.envs.results.replay_gate import gate_sentences
from fibo_robot.envs.rollouts.action_trace import ActionTrace
from fibo_robot.envs.rollouts.identity import other_task_note
from fibo_robot.envs.rollouts.videos import VIDEO_FOLDER, VideoWriteError, write_grid
from fibo_robot.reporting import KeyNumber, Report, Section, VideoClip
from fibo_robot.statistics import format_interval, format_rate

if TYPE_CHECKING:
    from fibo_robot.envs.results.attention.report import AttentionView


def add_evaluation(
    report: Report,
    evaluation: Evaluation,
    folder: Path,
    title: str = "Rollouts",
    lead: str = "",
    problems: Sequence[str] = (),
) -> Section:
    """Add one evaluation.

    Args:
        report: gets one section.
        evaluation: what happened.
        folder: where its videos lie.
        title: the section's heading.
        lead: what the policy is; the number of episodes follows.
        problems: sentences about what could not be made, such as a video.
    """
    low, high = evaluation.interval
    counted = len(evaluation.counted)
    count = f"{len(evaluation.episodes)} episodes of {evaluation.task['name']}, one per seed."
    section = report.section(title, f"{lead} {count}".strip())
    for note in evaluation.notes:
        misleads = bool(evaluation.other_task) and note == other_task_note(evaluation.other_task)
        section.note(note, kind="warning" if misleads else "info")
    for sentence in gate_sentences(evaluation.task, evaluation.versions):
        section.note(sentence)
    section.key_numbers(
        [
            KeyNumber(
                "Success rate",
                format_rate(evaluation.success_rate),
                f"{evaluation.successes} of {counted}; 95 %: {format_interval(low, high)}",
            ),
            KeyNumber(
                "Success at the end",
                format_rate(evaluation.success_at_end_rate),
                "still solved at the last step",
            ),
            KeyNumber("Errors", str(len(evaluation.errors)), "episodes that did not run to their end"),
            KeyNumber(
                "Speed",
                f"{evaluation.env_steps_per_s:.0f} steps/s",
                f"{evaluation.seconds:.0f} s of rollouts",
            ),
        ]
    )
    _problems(section, evaluation, problems)
    clips = [
        VideoClip(
            folder / episode.video, f"Seed {episode.seed}, {episode.length} steps", episode.success_once
        )
        for episode in sorted(evaluation.episodes, key=lambda episode: episode.success_once)
        if episode.video and (folder / episode.video).is_file()
    ]
    if clips:
        section.text("Videos of the first seeds, failures first.").videos(clips)
    _action_traces(section, evaluation, folder)
    if any(episode.object_positions for episode in evaluation.counted):
        section.figure(
            positions_figure(evaluation.episodes), "Where the object lay, seed by seed, seen from above."
        )
    seconds = {
        name: sum(getattr(session, name) for session in evaluation.sessions)
        for name in ("physics", "rendering", "policy", "transport")
    }
    if any(seconds.values()):
        section.figure(time_figure(seconds), "Where the time went, added up over workers and the policy.")
    section.table(
        [
            {
                "seed": episode.seed,
                "success": episode.success_once,
                "at_end": episode.success_at_end,
                "first": episode.first_success,
                "length": episode.length,
                "return": episode.sum_reward,
                "error": episode.error,
            }
            for episode in evaluation.episodes
        ],
        {
            "seed": "Seed",
            "success": "Solved",
            "at_end": "Solved at end",
            "first": "First solved at step",
            "length": "Steps",
            "return": "Return",
            "error": "Error",
        },
        caption="Every episode",
        collapsed=True,
    )
    _basis(section, evaluation)
    return section


def add_training(report: Report, runs: Mapping[str, Sequence[Evaluation]]) -> None:
    """Add the learning curves of the evaluated policies, and their configurations, where these are known."""
    named = {
        label if len(evaluations) == 1 else f"{label}, run {number}": evaluation.training
        for label, evaluations in runs.items()
        for number, evaluation in enumerate(evaluations, start=1)
        if evaluation.training
    }
    if not named:
        return
    section = report.section("Training", "How the policies came about." if len(named) > 1 else "")
    histories = {name: training["history"] for name, training in named.items() if training["history"]}
    if histories:
        section.figure(
            curves_figure(histories),
            "Loss on the demonstrations that training saw (dashed) and on those held out (solid).",
        )
    for name, training in named.items():
        text = yaml.safe_dump(training["config"], sort_keys=False)
        section.config(text, f"Configuration of the training: {name}")


def write_evaluation_report(
    evaluation: Evaluation,
    folder: Path,
    attention: "AttentionView | None" = None,
    problems: Sequence[str] = (),
) -> Path:
    """Write `report.html` into an evaluation's folder.

    Args:
        evaluation: what happened.
        folder: where its videos and action traces lie.
        attention: where the policy looked, if known.
        problems: sentences about what could not be made, such as a video.
    """
    name = evaluation.policy.get("checkpoint", "policy")
    report = Report(f"{evaluation.task['name']}: {name}", "What the policy did in simulation.")
    add_evaluation(report, evaluation, folder, problems=problems)
    if attention is not None:
        from fibo_robot.envs.results.attention.report import add_attention

        add_attention(report, attention)
    add_training(report, {name: [evaluation]})
    return report.save(folder / "report.html")


def write_videos_grid(evaluation: Evaluation, folder: Path) -> list[str]:
    """Show all videos of an evaluation side by side in `videos/grid.mp4`, failures first.

    Returns:
        a sentence where that could not be written.
    """
    videos = [
        folder / episode.video
        for episode in sorted(evaluation.episodes, key=lambda episode: episode.success_once)
        if episode.video and (folder / episode.video).is_file()
    ]
    try:
        if len(videos) > 1:
            write_grid(videos, folder / VIDEO_FOLDER / "grid.mp4")
    except VideoWriteError as error:
        return [str(error)]
    return []


def _action_traces(section: Section, evaluation: Evaluation, folder: Path) -> None:
    """The recorded episodes' actions, failures first, the first one open."""
    shown = [
        (episode, ActionTrace.load(folder / episode.action_trace))
        for episode in sorted(evaluation.episodes, key=lambda episode: episode.success_once)
        if episode.action_trace and (folder / episode.action_trace).is_file()
    ]
    if not shown:
        return
    text = "What the policy did in these episodes, step by step; actions are given as it asked for them."
    if any(trace.decisions for _, trace in shown):
        text += (
            " Behaviour cloning has no value function. In its place, at each decision, how unsure the policy "
            "was: spread, the standard deviation of the mixture's actions (1 is half the range of the "
            "demonstrated actions; each component's own has a lower bound), and modes, how many of its "
            "components are in play (the exponential of their weights' entropy)."
        )
    section.text(text)
    for index, (episode, trace) in enumerate(shown):
        outcome = "solved" if episode.success_once else "not solved"
        section.figure(
            action_figure(trace, episode.first_success),
            f"Seed {episode.seed}, {outcome}: actions and decisions",
            collapsed=index > 0,
        )


def _problems(section: Section, evaluation: Evaluation, others: Sequence[str]) -> None:
    """Name everything that went wrong, each where it happened."""
    lines: list[str] = []
    for episode in evaluation.episodes:
        if episode.error:
            effect = "does not count" if not episode.counts else "counts as a failure"
            lines.append(f"Seed {episode.seed} {effect}: {episode.error}")
        elif episode.worker_errors:
            lines.append(f"Seed {episode.seed} was run again: {episode.worker_errors[-1]}")
        lines += [text for text in (episode.video_error, episode.action_trace_error) if text]
    lines += others
    if lines:
        section.note("\n\n".join(lines), kind="warning")


def _basis(section: Section, evaluation: Evaluation) -> None:
    groups: Sequence[tuple[str, Mapping[str, object]]] = (
        ("policy", evaluation.policy),
        ("rollout", evaluation.rollout),
        ("version", evaluation.versions),
        ("task", evaluation.task),
    )
    rows = [
        {"what": f"{group}: {key}", "value": str(value)}
        for group, entries in groups
        for key, value in entries.items()
    ]
    section.table(
        rows, {"what": "Setting", "value": "Value"}, caption="What the result rests on", collapsed=True
    )
