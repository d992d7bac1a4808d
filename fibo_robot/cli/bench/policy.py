"""`fibo bench policy`: how long each family of policies takes to decide."""

from typing import Annotated

import typer

from fibo_robot.cli.bench.options import Device, JsonFile, is_standard_output, whole_numbers


def policy(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of the configs, e.g. network=transformer.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Names of policies, comma-separated; all when left out.")
    ] = None,
    batches: Annotated[str, typer.Option(help="Episodes that decide together, comma-separated.")] = "1,64",
    rounds: Annotated[int, typer.Option(min=2, help="Timed decisions of each case, interleaved.")] = 10,
    device: Annotated[Device, typer.Option(help="Where to decide.")] = Device.CPU,
    json: JsonFile = None,
) -> None:
    """Milliseconds a decision of each family of policies, and whether a robot at 20 Hz would wait for it."""
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.benchmarks.policies import decisions as benchmark

    names = None if policies is None else policies.split(",")
    rows = benchmark.measure(
        names, whole_numbers("--batches", batches), overrides or (), rounds, device.value
    )
    if not is_standard_output(json):
        _print_policy(rows, benchmark.CONTROL_HZ)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows], {"overrides": list(overrides or ())})


def _print_policy(rows: list, hertz: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = ("M parameters", "batch", "ms a decision", "quartiles", "actions", f"{hertz} Hz")
    table.add_column("policy")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.case,
            f"{row.parameters:.2f}",
            str(row.batch),
            f"{row.milliseconds:.1f}",
            f"{row.spread[0]:.1f}-{row.spread[1]:.1f}",
            str(row.n_action_steps),
            "yes" if row.keeps_up else "no",
        )
    Console().print(table)
    typer.echo(f"{hertz} Hz: three of four decisions take no longer than the actions they are for.")
