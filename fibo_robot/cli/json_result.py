"""The option `--json FILE|-` that every command with a result to compute on has."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the result as JSON; - to standard output."),
]


def write_result(target: str, value: Any) -> None:
    """Write `value` to a file, whole or not at all, or to standard output for `-`."""
    from fibo_robot.files import write_json

    if target == "-":
        typer.echo(json.dumps(value, indent=2, allow_nan=False))
    else:
        write_json(Path(target), value)
