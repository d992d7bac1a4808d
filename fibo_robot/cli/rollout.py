"""`fibo rollout`: evaluate a trained policy in the simulator."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add `rollout` to the command."""
    app.command()(rollout)


def rollout(
    checkpoint: Annotated[Path, typer.Argument(help="Run directory that `fibo train` wrote.")],
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="How many; one seed each.")] = 50,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Simulators side by side.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first episode.")] = 100_000,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the result [CHECKPOINT/rollouts].")
    ] = None,
    videos: Annotated[int, typer.Option("--videos", min=0, help="Film the first so many episodes.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Run only what the output lacks.")] = False,
    full_horizon: Annotated[
        bool, typer.Option("--full-horizon", help="Go on to the horizon when success has held.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows per decision [1 on a CPU, else 16].")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray for a cluster.")] = "local",
    check_demos: Annotated[
        Path | None, typer.Option("--check-demos", help="First replay these demonstrations here.")
    ] = None,
) -> None:
    """Roll a policy out on fresh seeds: success rate with interval, eval.json, videos, report.html."""
    import torch

    from fibo_robot.envs.results.attention_overlay import image_encoders
    from fibo_robot.envs.results.attention_videos import film_attention
    from fibo_robot.envs.results.report import write_evaluation_report, write_films_grid
    from fibo_robot.envs.rollouts.api import SUCCESS_HOLD
    from fibo_robot.envs.rollouts.api import rollout as run
    from fibo_robot.envs.tasks import Task
    from fibo_robot.policies import load_policy

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_policy(checkpoint, device=device)
    task = Task.from_dict(policy.meta["task"])
    output = output or checkpoint / "rollouts"
    training = _training(checkpoint)
    notes = [] if check_demos is None else [_check_demonstrations(check_demos, task, workers)]
    try:
        evaluation = run(
            policy,
            task,
            range(seed, seed + episodes),
            workers,
            output=output,
            resume=resume,
            videos=videos,
            batch_size=batch_size or (1 if device == "cpu" else 16),
            success_hold=None if full_horizon else SUCCESS_HOLD,
            engine=engine,
            policy_info=_describe(checkpoint, policy.meta, device),
            notes=notes,
            training=training,
        )
    except KeyboardInterrupt:
        typer.echo(
            f"fibo: interrupted; finished episodes are kept in {output}. Go on with --resume.", err=True
        )
        raise typer.Exit(130) from None
    _print(evaluation)
    # The result is safe by now: a film that cannot be written is missing from the report, and named there.
    troubles = write_films_grid(evaluation, output)
    attention = None
    if videos and image_encoders(policy):
        attention, missing = film_attention(policy, task, evaluation, output)
        troubles += missing
    report = write_evaluation_report(evaluation, output, attention, troubles)
    typer.echo(f"result: {output / 'eval.json'}\nreport: {report}")


def _print(evaluation: Any) -> None:
    """Show the rates as a table, and each error."""
    from rich.console import Console
    from rich.table import Table

    from fibo_robot.envs.results.comparison import format_interval, format_rate

    low, high = evaluation.interval
    table = Table("Task", "Episodes", "Success", "95 % interval", "At end", "Errors", "Steps/s")
    table.add_row(
        evaluation.task["name"],
        str(len(evaluation.episodes)),
        f"{format_rate(evaluation.success_rate)} ({evaluation.successes} of {len(evaluation.counted)})",
        format_interval(low, high),
        format_rate(evaluation.success_at_end_rate),
        str(len(evaluation.errors)),
        f"{evaluation.env_steps_per_s:.1f}",
    )
    Console().print(table)
    for episode in evaluation.errors:
        typer.echo(f"seed {episode.seed}: {episode.error}")


def _training(checkpoint: Path) -> dict[str, Any]:
    """The run's config and its history of metrics, which an older or hand-made checkpoint may lack."""
    import json

    import yaml

    from fibo_robot.training.checkpoint import CONFIG, HISTORY, CheckpointError

    path = checkpoint / HISTORY
    try:
        history = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Remove it: only curves are lost.") from error
    return {"config": yaml.safe_load((checkpoint / CONFIG).read_text(encoding="utf-8")), "history": history}


def _describe(checkpoint: Path, meta: dict[str, Any], device: str) -> dict[str, Any]:
    """What identifies a policy, wherever its folder is moved."""
    import hashlib

    with open(checkpoint / "model.safetensors", "rb") as stream:
        weights = hashlib.file_digest(stream, "sha256").hexdigest()
    known = {key: meta[key] for key in ("dataset", "git_revision") if key in meta}
    return {"checkpoint": checkpoint.resolve().name, "weights_sha256": weights, "device": device, **known}


def _check_demonstrations(path: Path, task: Any, workers: int) -> str:
    """Replay demonstrations of the policy's task here and say in a sentence how many still succeed."""
    from fibo_robot.envs.demonstrations.replay import check_same_simulation, replay_demonstrations

    check_same_simulation(path, task)
    replay = replay_demonstrations(path, "actions", workers)
    sentence = (
        f"{replay.successes} of {len(replay.demos)} demonstrations in {path.name} still succeed when their "
        "recorded actions are played in this simulator."
    )
    typer.echo(sentence)
    return sentence
