"""`fibo bench`: measurements of speed. Each subcommand prints a table and can write JSON."""

from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.bench_probe import probe
from fibo_robot.cli.bench_video import video

bench = typer.Typer(help="Measure speed: ratios within one process, with their spread.", no_args_is_help=True)
bench.command("video")(video)
bench.command("probe")(probe)


def register(app: typer.Typer) -> None:
    """Add `bench` to the command."""
    app.add_typer(bench, name="bench")


@bench.command("attention")
def attention(
    tokens: Annotated[str, typer.Option(help="Sequence lengths, comma-separated; class token included.")] = (
        "197,785,1569,3137,6273,12545,25089"
    ),
    ops: Annotated[
        str, typer.Option(help="Registered attentions to time beside dense attention, comma-separated.")
    ] = "fibottention,castling",
    forward_only: Annotated[bool, typer.Option(help="Leave the backward pass out.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a log-log plot to this PNG file.")] = None,
) -> None:
    """Attention alone, against fused dense attention, over sequence lengths."""
    from fibo_robot.benchmarks import attention as benchmark
    from fibo_robot.benchmarks.harness import BenchmarkError, write_results

    try:
        lengths = [int(part) for part in tokens.split(",")]
    except ValueError as error:
        raise BenchmarkError(
            f"--tokens must be whole numbers separated by commas, not {tokens!r}."
        ) from error
    directions = ("forward",) if forward_only else ("forward", "forward_backward")
    rows: list[benchmark.AttentionRow] = []
    for row in benchmark.measure(lengths, directions, dtype, device, ops=ops.split(",")):
        rows.append(row)
        if json is not None:  # an interrupted sweep keeps what it has measured
            write_results(json, [row.to_dict() for row in rows])
    _print_attention(rows)
    if plot is not None:
        benchmark.save_plot(rows, plot)


@bench.command("masks")
def masks(
    output: Annotated[Path, typer.Option(help="Folder for masks.png and receptive_field.png.")],
    patches: Annotated[int, typer.Option(help="Patch tokens along one side of the image.")] = 14,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 12,
    layers: Annotated[int, typer.Option(help="Layers for the growth of the receptive field.")] = 12,
    rule: Annotated[str, typer.Option(help="paper, modified or robot_release.")] = "paper",
) -> None:
    """Draw each head's mask, and how far information travels over the layers."""
    from fibo_robot.attention.pictures import mask_figure, receptive_field_figure
    from fibo_robot.files import replace_atomically

    figures = {
        "masks.png": mask_figure(patches**2, heads, rule, grid=(patches, patches)),
        "receptive_field.png": receptive_field_figure(patches**2, heads, layers),
    }
    for name, figure in figures.items():
        with replace_atomically(output / name) as temporary:
            figure.savefig(temporary, dpi=150)
        typer.echo(output / name)


@bench.command("castling")
def castling(
    steps: Annotated[int, typer.Option(min=1, help="Training steps per quarter of the schedule.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the weights and the images.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")] = None,
) -> None:
    """Train a small ViT under Castling's schedule; what would switching its branch off cost on the way?"""
    from fibo_robot.benchmarks import castling as benchmark
    from fibo_robot.benchmarks.harness import write_results

    rows = benchmark.measure(steps, seed)
    _print_castling(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


@bench.command("rollout")
def rollout(
    checkpoint: Annotated[Path, typer.Argument(help="Run directory of the policy that all use.")],
    workers: Annotated[str, typer.Option(help="Numbers of workers, comma-separated.")] = "1,2,4",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes per case and round.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Control steps per episode.")] = 80,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this JSON file.")] = None,
) -> None:
    """Rollouts against robomimic's own serial loop, with the same policy, environment and cameras."""
    from fibo_robot.benchmarks import rollout as benchmark
    from fibo_robot.benchmarks.harness import BenchmarkError, write_results
    from fibo_robot.envs.tasks import Task
    from fibo_robot.policies import load_policy

    try:
        counts = [int(part) for part in workers.split(",")]
    except ValueError as error:
        raise BenchmarkError(
            f"--workers must be whole numbers separated by commas, not {workers!r}."
        ) from error
    policy = load_policy(checkpoint)
    rows = benchmark.measure(policy, Task.from_dict(policy.meta["task"]), counts, episodes, steps, rounds)
    _print_rollout(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print_attention(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Attention alone, 12 heads of 64", box=None, padding=(0, 1, 0, 0))
    for heading in ("tokens", "direction", "op", "ms", "vs sdpa", "quartiles", "MiB", "keys", "ceiling"):
        table.add_column(heading, justify="left" if heading in ("direction", "op") else "right")
    for row in rows:
        table.add_row(
            str(row.tokens),
            {"forward": "fwd", "forward_backward": "fwd+bwd"}[row.direction],
            row.op,
            f"{row.milliseconds:.2f}",
            f"{row.speedup_vs_sdpa:.1f}x",
            f"{row.spread[0]:.1f}-{row.spread[1]:.1f}",
            "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
            "-" if row.keys_per_query is None else f"{row.keys_per_query:.0f}",
            f"{row.end_to_end_ceiling:.2f}x",
        )
    Console().print(table)
    typer.echo("keys: pairs computed per query. ceiling: what free attention would give a whole ViT-B, where")
    typer.echo("attention's share of the multiply-adds is " + _shares(rows) + ".")


def _shares(rows: list) -> str:
    shares = {row.tokens: row.attention_share for row in rows}
    return ", ".join(f"{100 * share:.0f} % at {tokens}" for tokens, share in shares.items())


def _print_castling(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Castling a copy of the model during training: the branch's scale and the softmax mass it "
        "passes, the gap in the logits, and the accuracy on 512 test images"
    )
    for heading in ("schedule", "step", "scale", "mass", "largest gap", "relative"):
        table.add_column(heading, justify="right")
    table.add_column("with branch", justify="right")
    table.add_column("castled", justify="right")
    for row in rows:
        table.add_row(
            f"{100 * row.schedule:.0f} %",
            str(row.step),
            f"{row.branch_scale:.2f}",
            f"{100 * row.mass_passed:.1f} %",
            f"{row.output_gap:.3g}",
            f"{row.relative_gap:.3g}",
            f"{100 * row.accuracy_before:.1f} %",
            f"{100 * row.accuracy_after:.1f} %",
        )
    Console().print(table)


def _print_rollout(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = ("case", "workers", "steps/s", "speed-up", "quartiles")
    for heading in (*headings, "physics", "render", "policy", "transp."):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in rows:
        split = (row.physics, row.rendering, row.policy, row.transport)
        table.add_row(
            row.case,
            str(row.workers),
            f"{row.env_steps_per_s:.1f}",
            f"{row.speedup:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            *("-" if part is None else f"{part:.1f}" for part in split),
        )
    Console().print(table)
    typer.echo(
        "Speed-up: over robomimic's loop. The four on the right: ms per control step, over all workers."
    )
