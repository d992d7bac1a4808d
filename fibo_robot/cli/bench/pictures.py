"""`fibo bench pictures`: Warp's pictures beside OpenGL's."""

from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.cli.bench.options import JsonFile, is_standard_output
from fibo_robot.progress import progress_bar


def pictures(
    tasks: Annotated[list[str], typer.Argument(help="Names of tasks, such as lift can.")],
    sheets: Annotated[
        Path | None, typer.Option("--sheets", help="Folder for a PNG per task: OpenGL, Warp, difference.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes per task.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 1000,
    json: JsonFile = None,
) -> None:
    """How far Warp's pictures are from OpenGL's, camera by camera, on the same scenes."""
    from fibo_robot.benchmarks.harness import write_results
    from fibo_robot.benchmarks.simulation.pictures import PictureRow, compare
    from fibo_robot.envs.tasks import get_task

    rows: list[PictureRow] = []
    for name in tasks:
        task = get_task(name)
        sheet = None if sheets is None else sheets / f"{name}.png"
        with progress_bar(f"Drawing {name}") as progress:
            rows += compare(task, range(seed, seed + scenes), sheet, progress)
    if not is_standard_output(json):
        _print(rows)
    if json is not None:
        write_results(json, [row.to_dict() for row in rows])


def _print(rows: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("case", "scenes", "difference", "smallest-largest", "changed"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in rows:
        low, high = row.spread
        changed = f"{100 * row.changed:.1f} %"
        table.add_row(row.case, str(row.scenes), f"{row.difference:.1f}", f"{low:.1f}-{high:.1f}", changed)
    Console().print(table)
    typer.echo("Difference: mean absolute, of 255. Changed: pixels that differ by more than 32 in a colour.")
