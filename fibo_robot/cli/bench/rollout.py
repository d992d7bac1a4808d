"""`fibo bench rollout`: rollouts against robomimic's own loop."""

from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output, whole_numbers


def rollout(
    checkpoint: Annotated[Path, typer.Argument(help="Run directory of the policy that all use.")],
    workers: Annotated[str, typer.Option(help="Numbers of workers, comma-separated.")] = "1,2,4",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes per case and round.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Control steps per episode.")] = 80,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 3,
    json: JsonFile = None,
) -> None:
    """Rollouts against robomimic's own serial loop, with the same policy, environment and cameras."""
    from fibo_robot.benchmarks import rollout as benchmark
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.envs.tasks import Task
    from fibo_robot.policies import load_policy

    counts = whole_numbers("--workers", workers)
    policy = load_policy(checkpoint)
    rows = benchmark.measure(policy, Task.from_dict(policy.meta["task"]), counts, episodes, steps, rounds)
    if not is_standard_output(json):
        _print_rollout(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print_rollout(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = ("case", "workers", "chunk", "steps/s", "speed-up", "quartiles")
    for heading in (*headings, "physics", "render", "policy", "transp."):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in rows:
        split = (row.physics, row.rendering, row.policy, row.transport)
        table.add_row(
            row.case,
            str(row.workers),
            str(row.n_action_steps),
            f"{row.env_steps_per_s:.1f}",
            f"{row.speedup:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            *("-" if part is None else f"{part:.1f}" for part in split),
        )
    Console().print(table)
    typer.echo("Chunk: actions before the policy looks again. Speed-up: over robomimic's loop with the same.")
    typer.echo("The four on the right: ms per control step, over all workers.")
