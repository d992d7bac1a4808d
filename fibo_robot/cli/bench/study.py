"""`fibo bench study`: attentions and controls trained alike on few pictures, and what the runs say."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output
from fibo_robot.errors import FiboError

if TYPE_CHECKING:
    from fibo_robot.benchmarks.study.summary import Summary


def study(
    data: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10's parquet files; without it, no run is done.")
    ] = None,
    stage: Annotated[str, typer.Option(help="How large: small, long, 1000, 5000, 48000.")] = "small",
    output: Annotated[Path, typer.Option(help="Takes a run directory per run.")] = Path("runs/study"),
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Runs at once, each in a process of its own; small ones share a GPU well."),
    ] = 1,
    flips: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two variants: draw test pictures that one gets right and the other wrong."),
    ] = None,
    sheet: Annotated[Path, typer.Option(help="Takes the picture of --flips.")] = Path("flips.png"),
    json: JsonFile = None,
) -> None:
    """Train attentions and controls alike on few pictures; go on where it was interrupted; sum up.

    The summary is of all runs that are finished, so it can be asked for at any time, without --data; so can
    the pictures that flip.
    """
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.benchmarks.study.plan import VARIANTS, find_stage
    from fibo_robot.benchmarks.study.runs import read_records, run_study
    from fibo_robot.benchmarks.study.summary import summarise

    chosen = find_stage(stage)
    if data is not None:
        run_study(chosen, VARIANTS, data, output, jobs)
    records = read_records(output / chosen.name)
    if not records:
        raise FiboError(f"No run is finished in {output / chosen.name}; give --data to train them.")
    summary = summarise(records)
    if not is_standard_output(json):
        tested = sum(record.correct is not None for record in records)
        typer.echo(f"{len(records)} runs finished; {tested} of them tested, the others chose learning rates")
        _print(summary)
    if flips is not None:
        from fibo_robot.benchmarks.study.flips import write_sheet

        for found in write_sheet(output / chosen.name, *flips, sheet):
            seeds = ", ".join(str(seed) for seed in found.seeds)
            typer.echo(
                f"{found.right} right and {found.wrong} wrong with every seed ({seeds}): "
                f"{len(found.pictures)} pictures",
                err=is_standard_output(json),
            )
        typer.echo(f"wrote {sheet}", err=is_standard_output(json))
    if json is not None:
        from dataclasses import asdict

        settings = {"stage": asdict(chosen), "summary": summary.to_dict()}
        write_results(json, [asdict(record) for record in records], settings)


def _print(summary: "Summary") -> None:
    from rich.console import Console
    from rich.table import Table

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    table = Table("variant", "seeds", "learning rate", "pairs", "test accuracy", "95 % interval")
    for row in summary.accuracies:
        interval = "one seed" if row.low is None else f"{percent(row.low)} to {percent(row.high)}"
        rate, density = f"{row.learning_rate:g}", percent(row.density)
        table.add_row(row.variant, str(row.seeds), rate, density, percent(row.rate), interval)
    differences = Table("A", "B", "seeds", "A - B (points)", "95 % interval", "p")
    for found in summary.differences:
        interval = p_value = "–"
        if found.low is not None and found.high is not None and found.p_value is not None:
            interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
            p_value = f"{found.p_value:.3f}"
        points = f"{100 * found.difference:+.1f}"
        differences.add_row(found.a, found.b, str(found.seeds), points, interval, p_value)
    console = Console()
    console.print(table)
    console.print(differences)
