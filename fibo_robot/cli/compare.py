"""`fibo compare`: tell evaluations apart, with intervals and paired tests."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `compare` to the command."""
    app.command()(compare)


def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]EVAL[,EVAL]...",
            help="eval.json or its folder; several joined by commas are training seeds of one method.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for JSON, CSV, plot and report.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare success rates: a table with intervals, paired tests, JSON, CSV, a plot and report.html."""
    from rich.console import Console
    from rich.table import Table

    from fibo_robot.envs.comparison import ComparisonError, format_rate, load_method
    from fibo_robot.envs.comparison import compare as run
    from fibo_robot.envs.evaluation import Evaluation
    from fibo_robot.envs.report import add_comparison, add_evaluation, add_training, pair_rows
    from fibo_robot.reporting import Report

    folders: dict[str, list[Path]] = {}
    for argument in evaluations:
        label, paths = load_method(argument)
        if label in folders:
            raise ComparisonError(f"Two methods are called {label!r}; name them as LABEL=PATH.")
        folders[label] = paths
    methods = {label: [Evaluation.load(path) for path in paths] for label, paths in folders.items()}
    comparison = run(methods)

    table = Table("Method", "Runs", "Episodes", "Success", "95 % interval", "At end", "Errors")
    for row in comparison.methods:
        table.add_row(
            row.method,
            str(row.runs),
            str(row.episodes),
            format_rate(row.success_rate),
            f"{format_rate(row.low)} to {format_rate(row.high)}",
            format_rate(row.success_at_end),
            str(row.errors),
        )
    console = Console()
    console.print(table)
    pairs = pair_rows(comparison)
    if pairs:
        table = Table(*pairs[0])
        for pair in pairs:
            table.add_row(*(_cell(value) for value in pair.values()))
        console.print(table)

    comparison.save(output)
    report = Report("Comparison: " + ", ".join(methods), "Policies on the same seeds.")
    add_comparison(report, comparison)
    for label, runs in methods.items():
        for number, (evaluation, path) in enumerate(zip(runs, folders[label]), start=1):
            folder = path if path.is_dir() else path.parent
            title = label if len(runs) == 1 else f"{label}, training run {number}"
            add_evaluation(report, evaluation, folder, title)
    add_training(report, methods)
    page = report.save(output / "report.html")
    typer.echo(f"result: {output / 'comparison.json'}\nreport: {page}")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
