"""Entry point of the `fibo` command.

Each module named in COMMANDS has `register(app)`, which adds its subcommand. These modules import
nothing heavy at the top, so that `fibo --help` answers at once; the work is imported when it is called.
"""

import importlib
import sys

import typer

from fibo_robot.errors import FiboError

COMMANDS = (
    "attention",
    "bench",
    "classify",
    "compare",
    "data",
    "demos",
    "doctor",
    "quickstart",
    "rollout",
    "train",
)

app = typer.Typer(
    name="fibo",
    help="Efficient attention for video classifiers and robot policies: train, roll out, classify, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in COMMANDS:
    importlib.import_module(f"fibo_robot.cli.{_command}").register(app)


def main() -> None:
    """Run the command; an error the user can act on becomes one message and status 1, Ctrl-C status 130."""
    try:
        app()
    except FiboError as error:
        typer.echo(f"fibo: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:  # not about a file: a fault of the program, to be seen whole
            raise
        typer.echo(f"fibo: {error.filename}: {error.strerror}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("fibo: interrupted", err=True)
        sys.exit(130)
