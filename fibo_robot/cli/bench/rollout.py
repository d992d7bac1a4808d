"""`fibo bench rollout`: processes against robomimic's own loop, or worlds on a device against processes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fibo_robot.cli.bench.options import Device, JsonFile, is_standard_output, whole_numbers


def rollout(
    checkpoint: Annotated[Path, typer.Argument(help="Run directory of the policy that all use.")],
    engine: Annotated[
        Literal["local", "warp"],
        typer.Option("--engine", help="Processes against robomimic's loop, or worlds against processes."),
    ] = "local",
    workers: Annotated[
        str, typer.Option(help="Numbers of workers, comma-separated [1,2,4; warp: 1,2].")
    ] = "",
    worlds: Annotated[str, typer.Option(help="Numbers of worlds, comma-separated (warp).")] = "1,16,128",
    device: Annotated[Device, typer.Option(help="Where worlds are simulated (warp).")] = Device.CPU,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes per case and round (local).")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Control steps per episode.")] = 80,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 3,
    json: JsonFile = None,
) -> None:
    """Rollouts against robomimic's serial loop, or many worlds on one device against worker processes."""
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.envs.tasks import Task
    from fibo_robot.policies import load_policy

    policy = load_policy(checkpoint, device=device)
    task = Task.from_dict(policy.meta["task"])
    if engine == "warp":
        from fibo_robot.benchmarks.simulation import worlds as rollout_worlds

        counts, processes = whole_numbers("--worlds", worlds), whole_numbers("--workers", workers or "1,2")
        rows = rollout_worlds.measure(policy, task, counts, device.value, processes, steps, rounds)
    else:
        from fibo_robot.benchmarks.simulation import rollout as benchmark

        counts = whole_numbers("--workers", workers or "1,2,4")
        rows = benchmark.measure(policy, task, counts, episodes, steps, rounds)
    if not is_standard_output(json):
        (_print_worlds if engine == "warp" else _print_rollout)(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print_worlds(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("case", "worlds", "device", "steps/s", "quartiles", "physics", "look", "policy", "MiB"):
        table.add_column(heading, justify="left" if heading in ("case", "device") else "right")
    for row in rows:
        table.add_row(
            row.case,
            str(row.worlds),
            row.device,
            f"{row.env_steps_per_s:.1f}",
            f"{row.spread[0]:.1f}-{row.spread[1]:.1f}",
            *(f"{part:.3f}" for part in (row.physics, row.rendering, row.policy)),
            "-" if row.memory_mb is None else f"{row.memory_mb:.0f}",
        )
    Console().print(table)
    typer.echo("Physics (with controller and success check), look, policy: ms per control step and world.")


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
