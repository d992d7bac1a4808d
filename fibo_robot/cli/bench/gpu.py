"""`fibo bench gpu`: are the kernels right on this GPU, and what are they worth there?"""

from pathlib import Path
from typing import Annotated

import typer


def gpu(
    json: Annotated[Path, typer.Option(metavar="DIR", help="Folder for one JSON file per part.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="Begin no case later than this.")] = 8.0,
) -> None:
    """Check and time the kernels on one NVIDIA GPU; run again to go on where time ran out."""
    from fibo_robot.benchmarks.gpu.plan import run
    from fibo_robot.benchmarks.gpu.summary import lines, verdict

    results = run(json, minutes, say=typer.echo)
    for line in lines(results):
        typer.echo(line)
    raise typer.Exit(verdict(results))
