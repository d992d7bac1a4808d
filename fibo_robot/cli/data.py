"""`fibo data`: check clips before training on them."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `data` to the command."""
    data = typer.Typer(help="Check clips before training on them.", no_args_is_help=True)
    data.command("check")(check)
    data.callback()(_group)
    app.add_typer(data, name="data")


def _group() -> None:
    """A group of one command keeps its name."""


def check(
    data: Annotated[Path, typer.Argument(help="Data set, table of clips, or any folder of clips.")],
    output: Annotated[Path, typer.Option("--output", help="CSV table to write.")] = Path("clips_checked.csv"),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Clips at a time.")] = 2,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Which of a public data set's official splits.")
    ] = None,
    frame_rate: Annotated[
        float, typer.Option("--frame-rate", min=0.1, help="Of clips that are folders of pictures.")
    ] = 30.0,
) -> None:
    """Read every clip once, strictly: frames, fps, size and codec, or the reason why it cannot be read.

    An interrupted check continues: rows that stand in the output already are not read again. Exit status: 0
    if every clip can be read, 3 if some cannot.
    """
    from fibo_robot.video.check import check_clips, find_clips

    files, description = find_clips(data, protocol)
    typer.echo(f"{len(files)} clips from {description}")
    rows = check_clips(files, output, workers, frame_rate)
    broken = [row for row in rows if row.problem]
    for row in broken:
        typer.echo(f"fibo: {row.problem}", err=True)
    frames = sorted(row.frames for row in rows if not row.problem)
    if frames:
        typer.echo(
            f"{len(frames)} readable, {frames[0]} to {frames[-1]} frames (median {frames[len(frames) // 2]})"
        )
    typer.echo(f"{len(broken)} unreadable; table: {output}")
    if broken:
        raise typer.Exit(3)
