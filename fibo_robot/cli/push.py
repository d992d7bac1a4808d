"""`fibo push`: a trained model onto the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `push` to the command."""
    app.command()(push)


def push(
    run: Annotated[Path, typer.Argument(help="Run directory that `fibo train` wrote.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where it goes on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Write what would be uploaded here, and upload nothing.")
    ] = None,
) -> None:
    """Upload a model with a card made of its results; `hf:OWNER/NAME` then works like a run directory."""
    from fibo_robot.hub.push import push as upload
    from fibo_robot.hub.push import write_folder

    if folder is not None:
        card = write_folder(run, repository, folder)
        typer.echo(f"{folder}: as it would lie on the Hub")
    else:
        address, card = upload(run, repository, private=private)
        typer.echo(address)
    for path in card.left_out:
        typer.echo(f"fibo: left out {path}: it does not say that it is of these weights", err=True)
