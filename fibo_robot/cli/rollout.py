"""`fibo rollout`: evaluate a trained policy in the simulator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fibo_robot.errors import FiboError

if TYPE_CHECKING:
    from fibo_robot.envs.pusht import PushTTask
    from fibo_robot.envs.results.evaluation import Evaluation
    from fibo_robot.envs.rollouts.engine import Engine
    from fibo_robot.envs.rollouts.workers.engine import EngineName
    from fibo_robot.envs.tasks import Task
    from fibo_robot.policies.adapters.robomimic_checkpoint import RobomimicPolicy
    from fibo_robot.policies.models.base import ChunkPolicy


def register(app: typer.Typer) -> None:
    """Add `rollout` to the command."""
    app.command()(rollout)


def rollout(
    checkpoint: Annotated[
        Path, typer.Argument(help="Run directory, hf:owner/name on the Hub, or robomimic's .pth.")
    ],
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
        int | None,
        typer.Option("--batch-size", min=1, help="Rows per decision [1 on a CPU, else worlds, or 16]."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray", "warp"],
        typer.Option("--engine", help="Processes here, actors on a Ray cluster, or worlds on one device."),
    ] = "local",
    worlds: Annotated[
        int | None,
        typer.Option(
            "--worlds", min=1, help="Simulated together per device (warp, ray) [1024 on a GPU, else 16]."
        ),
    ] = None,
    other_task: Annotated[
        str | None,
        typer.Option("--other-task", help="Evaluate on this task, though trained for another; it is noted."),
    ] = None,
    check_demos: Annotated[
        Path | None, typer.Option("--check-demos", help="First replay these demonstrations here.")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", min=2, help="Evaluate the last so many kept checkpoints; report their mean."),
    ] = None,
) -> None:
    """Roll a policy out on fresh seeds: success rate with interval, eval.json, videos, report.html."""
    import torch

    from fibo_robot.envs.results.attention.overlay import image_encoders
    from fibo_robot.envs.results.attention.videos import record_attention
    from fibo_robot.envs.results.report import write_evaluation_report, write_videos_grid
    from fibo_robot.envs.results.runs import LastCheckpoints
    from fibo_robot.envs.rollouts.api import SUCCESS_HOLD
    from fibo_robot.envs.rollouts.api import rollout as run
    from fibo_robot.envs.tasks import Task as SimulatorTask
    from fibo_robot.extras import MissingExtraError
    from fibo_robot.hub.source import results_folder
    from fibo_robot.training.checkpoint import last_checkpoints

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if worlds is not None and engine == "local":
        raise typer.BadParameter(
            "Worlds are simulated together by --engine warp or ray.", param_hint="--worlds"
        )
    if engine == "warp" or worlds is not None:
        worlds = min(worlds or (1024 if device.startswith("cuda") else 16), episodes)
    player, holder = _choose_engine(engine, worlds, device, workers)
    if output is None:
        output = (
            checkpoint.with_name(f"{checkpoint.stem}_rollouts")
            if checkpoint.is_file()
            else results_folder(checkpoint) / "rollouts"
        )
    notes: list[str] = []

    def evaluate(run_dir: Path, target: Path) -> "Evaluation":
        policy, task, info, training = _load(run_dir, holder, other_task)
        if check_demos is not None and not notes:
            notes.append(_check_demonstrations(check_demos, task, workers))
        if engine == "warp" and isinstance(task, SimulatorTask):
            assert worlds is not None
            _find_starts(task, worlds, device, list(policy.shape_meta.obs), range(seed, seed + episodes))
        try:
            evaluation = run(
                policy,
                task,
                range(seed, seed + episodes),
                workers,
                output=target,
                resume=resume,
                videos=videos,
                batch_size=batch_size or (1 if device == "cpu" else worlds or 16),
                success_hold=None if full_horizon else SUCCESS_HOLD,
                engine=player,
                allow_other_task=other_task is not None,
                policy_info={"device": torch.device(device).type, **info},
                notes=notes,
                training=training,
            )
        except KeyboardInterrupt:
            typer.echo(
                f"fibo: interrupted; finished episodes are kept in {target}. Go on with --resume.", err=True
            )
            raise typer.Exit(130) from None
        _print(evaluation, said=notes)
        # The result is safe by now: a video that cannot be written is missing from the report, which says so.
        problems = write_videos_grid(evaluation, target)
        attention = None
        if videos and image_encoders(policy):
            try:
                attention, missing = record_attention(policy, task, evaluation, target)
                problems += missing
            except MissingExtraError as error:  # it is watched in a single world, and this machine has none
                problems.append(f"The attention could not be watched: {error}")
        report = write_evaluation_report(evaluation, target, attention, problems)
        typer.echo(f"result: {target / 'eval.json'}\nreport: {report}")
        return evaluation

    if last is None:
        evaluate(checkpoint, output)
        return
    evaluations: dict[str, Evaluation] = {}
    for folder in last_checkpoints(checkpoint, last):
        typer.echo(folder.name)
        evaluations[folder.name] = evaluate(folder, output / folder.name)
    found = LastCheckpoints(evaluations)
    typer.echo(f"{found.to_text()}\nresult: {found.save(output)}")


def _load(
    checkpoint: Path, device: str, other_task: str | None
) -> "tuple[ChunkPolicy | RobomimicPolicy, Task | PushTTask, dict[str, Any], dict[str, Any]]":
    """The policy of a checkpoint, what to judge it on, and what to record of it and of its training."""
    from fibo_robot.envs.tasks import get_task, task_from_dict
    from fibo_robot.policies.load import load_policy, policy_checkpoint

    if checkpoint.suffix == ".pth":
        from fibo_robot.policies.adapters.robomimic_checkpoint import load_robomimic_policy

        policy = load_robomimic_policy(checkpoint, device)
        info: dict[str, Any] = {"checkpoint": checkpoint.name}
        training: dict[str, Any] = {}
    else:
        policy, saved = load_policy(checkpoint, device=device), policy_checkpoint(checkpoint)
        info, training = saved.describe(), saved.training()
    if other_task is None and "task" not in policy.meta:
        raise FiboError(f"{checkpoint} does not say which task it is for: name one with --other-task.")
    task = task_from_dict(policy.meta["task"]) if other_task is None else get_task(other_task)
    return policy, task, info, training


def _choose_engine(
    engine: "EngineName | Literal['warp']", worlds: int | None, device: str, workers: int
) -> "tuple[EngineName | Engine, str]":
    """The engine, and the device on which this process holds the policy."""
    if engine == "warp":
        from fibo_robot.envs.rollouts.batched.engine import BatchedEngine

        assert worlds is not None
        return BatchedEngine(worlds, device), device
    if engine == "ray" and worlds is not None:
        from fibo_robot.envs.rollouts.batched.ray import RayBatchedEngine

        # Its actors take the policy to their own devices; this machine may have none.
        return RayBatchedEngine(worlds, device, None if device.startswith("cuda") else workers), "cpu"
    return engine, device


def _find_starts(task: "Task", worlds: int, device: str, obs_keys: list[str], seeds: range) -> None:
    """Compute where episodes begin, on the host and once for all rollouts of these seeds."""
    from fibo_robot.envs.warp import StartStates
    from fibo_robot.envs.warp.prepare import prepare
    from fibo_robot.progress import progress_bar

    task = task.resolved()
    prepare(task, worlds, device, obs_keys)  # what is refused is refused before this long work
    with progress_bar("Finding start states") as progress:
        StartStates(task).ensure(seeds, progress)


def _print(evaluation: "Evaluation", said: list[str]) -> None:
    """Show the rates as a table, what else was noted, and each error."""
    from rich.console import Console
    from rich.table import Table

    from fibo_robot.statistics import format_interval, format_rate

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
    for note in evaluation.notes:
        if note not in said:
            typer.echo(note)
    for episode in evaluation.errors:
        typer.echo(f"seed {episode.seed}: {episode.error}")


def _check_demonstrations(path: Path, task: "Task | PushTTask", workers: int) -> str:
    """Replay demonstrations of the policy's task here and say in a sentence how many still succeed."""
    from fibo_robot.envs.demonstrations.replay import check_same_simulation, replay_demonstrations
    from fibo_robot.envs.pusht import PushTTask

    if isinstance(task, PushTTask):
        raise FiboError(f"Demonstrations of {task.name} cannot be replayed here: leave --check-demos out.")
    check_same_simulation(path, task)
    replay = replay_demonstrations(path, "actions", workers)
    sentence = (
        f"{replay.successes} of {len(replay.demos)} demonstrations in {path.name} still succeed when their "
        "recorded actions are played in this simulator."
    )
    typer.echo(sentence)
    return sentence
