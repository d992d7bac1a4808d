"""`fibo bench startup`: how long a command takes to its first answer."""

from typing import Annotated

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output


def startup(
    rounds: Annotated[int, typer.Option(min=1, help="Times that every command is started.")] = 5,
    json: JsonFile = None,
) -> None:
    """Start commands in fresh processes: wall time, and CPU time with their children."""
    from fibo_robot.benchmarks import startup as benchmark
    from fibo_robot.benchmarks.harness import write_results

    rows = benchmark.measure(rounds)
    if not is_standard_output(json):
        _print_startup(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print_startup(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("command", "seconds", "quartiles", "CPU seconds")
    for row in rows:
        spread = f"{row.spread[0]:.2f}-{row.spread[1]:.2f}"
        table.add_row(row.case, f"{row.seconds:.2f}", spread, f"{row.cpu_seconds:.2f}")
    Console().print(table)
