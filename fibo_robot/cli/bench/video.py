"""`fibo bench video`: the input pipeline and whole video encoders."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.bench.options import Device, JsonFile, is_standard_output


class Part(StrEnum):
    """What the benchmark has."""

    PIPELINE = "pipeline"
    MODEL = "model"


def video(
    clips: Annotated[
        Path | None, typer.Option(help="Folder of videos; without it, some are written.")
    ] = None,
    only: Annotated[Part | None, typer.Option(help="One part; both when left out.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read clips.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, interleaved.")] = 5,
    device: Annotated[Device, typer.Option(help="Of the models.")] = Device.CPU,
    json: JsonFile = None,
) -> None:
    """The input pipeline against bare decord and PyAV; joint space-time ViT-S against dense attention."""
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.benchmarks.video.models import measure_models
    from fibo_robot.benchmarks.video.pipeline import measure_pipeline

    rows: list = []
    if only != Part.MODEL:
        pipeline = measure_pipeline(clips, workers, rounds)
        if not is_standard_output(json):
            _print_pipeline(pipeline)
        rows += pipeline
    if only != Part.PIPELINE:
        models = measure_models(rounds=rounds, device=device)
        if not is_standard_output(json):
            _print_models(models)
        rows += models
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print_pipeline(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    first = rows[0]
    table = Table(
        *("case", "clips/s", "vs decord", "vs pyav", "vs the faster", "quartiles"),
        title=f"{first.clips} clips, {first.frames} frames of each, {first.workers} processes; "
        "decord and pyav only decode",
    )
    for row in rows:
        ratios = (row.speedup_vs_decord, row.speedup_vs_pyav, row.speedup)
        table.add_row(
            row.case,
            f"{row.clips_per_s:.1f}",
            *(f"{ratio:.2f}x" for ratio in ratios),
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
        )
    Console().print(table)


def _print_models(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("frames", "tokens", "attention", "clips/s", "vs dense", "quartiles", "of free"),
        title="Joint space-time ViT-S, one clip at a time; of free: of the speed that free attention gives",
    )
    for row in rows:
        table.add_row(
            str(row.frames),
            f"{row.tokens:,}",
            row.case,
            f"{row.clips_per_s:.2f}",
            f"{row.speedup_vs_dense:.2f}x",
            f"{row.spread[0]:.2f}-{row.spread[1]:.2f}",
            f"{100 * row.of_free:.0f} %",
        )
    Console().print(table)
