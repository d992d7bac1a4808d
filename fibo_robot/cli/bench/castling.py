"""`fibo bench castling`: what switching the branch off costs at each moment of the schedule."""

from typing import Annotated

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output


def castling(
    steps: Annotated[int, typer.Option(min=1, help="Training steps per quarter of the schedule.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the weights and the images.")] = 0,
    json: JsonFile = None,
) -> None:
    """Train a small ViT under Castling's schedule; what would switching its branch off cost on the way?"""
    from fibo_robot.benchmarks.attention import castling as benchmark
    from fibo_robot.benchmarks.harness import write_results

    rows = benchmark.measure(steps, seed)
    if not is_standard_output(json):
        _print_castling(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print_castling(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Castling a copy of the model during training: the branch's scale and the softmax mass its "
        "mask passes, the gap in the logits, and the accuracy on 512 test images"
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
            "off" if row.mass_passed is None else f"{100 * row.mass_passed:.1f} %",
            f"{row.output_gap:.3g}",
            f"{row.relative_gap:.3g}",
            f"{100 * row.accuracy_before:.1f} %",
            f"{100 * row.accuracy_after:.1f} %",
        )
    Console().print(table)
