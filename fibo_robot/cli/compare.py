"""`fibo compare`: tell evaluations apart, with intervals and paired tests."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

# Fewer than in the report, to fit on a terminal of 80 columns.
PAIR_COLUMNS = ("Pair", "Difference, points", "p, adjusted", "Seeds", "Seeds needed")


def register(app: typer.Typer) -> None:
    """Add `compare` to the command."""
    app.command()(compare)


def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]EVAL[,EVAL]...",
            help="eval.json, last.json or the folder of one; several joined by commas are training runs.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for JSON, CSV, plot and report.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare success rates: a table with intervals, paired tests, JSON, CSV, a plot and report.html."""
    from rich.console import Console

    from fibo_robot.envs.errors import ComparisonError
    from fibo_robot.envs.results.comparison.compare import compare as run
    from fibo_robot.envs.results.comparison.report import add_comparison, cost_rows, pair_rows
    from fibo_robot.envs.results.report import add_evaluation, add_training
    from fibo_robot.envs.results.runs import LastCheckpoints, evaluations_of, load_method, load_run
    from fibo_robot.reporting import Report
    from fibo_robot.statistics import format_interval, format_rate

    folders: dict[str, list[Path]] = {}
    for argument in evaluations:
        label, paths = load_method(argument)
        if label in folders:
            raise ComparisonError(f"Two methods are called {label!r}; name them as LABEL=PATH.")
        folders[label] = paths
    methods = {label: [load_run(path) for path in paths] for label, paths in folders.items()}
    comparison = run(methods)

    console = Console()
    methods_table = _table("Method", "Runs", "Episodes", "Success", "95 % interval", "At end", "Errors")
    for row in comparison.methods:
        methods_table.add_row(
            row.method,
            str(row.runs),
            str(row.episodes),
            format_rate(row.success_rate),
            format_interval(row.low, row.high),
            format_rate(row.success_at_end),
            str(row.errors),
        )
    console.print(methods_table)
    if costs := cost_rows(comparison):
        costs_table = _table(*costs[0])
        for cost in costs:
            costs_table.add_row(*cost.values())
        console.print(costs_table)
    if comparison.pairs:
        pairs_table = _table(*PAIR_COLUMNS)
        for pair in pair_rows(comparison):
            pairs_table.add_row(*("–" if pair[name] is None else str(pair[name]) for name in PAIR_COLUMNS))
        console.print(pairs_table)
    for note in comparison.notes:
        typer.echo(f"note: {note}")

    comparison.save(output)
    report = Report("Comparison: " + ", ".join(methods), "Policies on the same seeds.")
    add_comparison(report, comparison)
    for label, runs in methods.items():
        for number, (found, path) in enumerate(zip(runs, folders[label]), start=1):
            folder = path if path.is_dir() else path.parent
            title = label if len(runs) == 1 else f"{label}, training run {number}"
            if isinstance(found, LastCheckpoints):
                for name, evaluation in found.evaluations.items():
                    add_evaluation(report, evaluation, folder / name, f"{title}, {name}")
            else:
                add_evaluation(report, found, folder, title)
    # A run's last checkpoint knows the whole of its training.
    add_training(
        report, {label: [evaluations_of(run)[-1] for run in runs] for label, runs in methods.items()}
    )
    page = report.save(output / "report.html")
    typer.echo(f"result: {output / 'comparison.json'}\nreport: {page}")


def _table(*columns: str) -> "Table":
    """A table that breaks long names over lines rather than cutting them off."""
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
