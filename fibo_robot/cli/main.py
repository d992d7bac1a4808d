"""Entry point of the `fibo` command.

Each module named in COMMANDS has `register(app)`, which adds its subcommand. These modules import
nothing heavy at the top, so that `fibo --help` answers at once; the work is imported when it is called.
"""

import importlib
import os
import sys
from io import TextIOWrapper
from typing import NoReturn

import typer

from fibo_robot.errors import FiboError
from fibo_robot.files import WRITE_ERRORS

# Else Intel's MKL rounds a row of a batch by where it lies in memory, and an episode by what runs beside it.
# It is read when PyTorch first multiplies matrices.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

COMMANDS = (
    "attention",
    "bench",
    "classify",
    "compare",
    "data",
    "demos",
    "doctor",
    "push",
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
        if isinstance(sys.stdout, TextIOWrapper):
            # A file's name need not be text in the terminal's encoding: it is written as the system has it.
            sys.stdout.reconfigure(errors="surrogateescape")
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where an error can still be told, not at the interpreter's exit
    except FiboError as error:
        _stop(str(error))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.errno not in WRITE_ERRORS:
            raise  # about no file: a fault of the program, to be seen whole
        _drop_output()
        # Only standard output, and what a library writes by itself, have no name here.
        written = error.filename or "The output could not be written"
        _stop(f"{written}: {error.strerror or error}.")
    except KeyboardInterrupt:
        _stop("interrupted", status=130)


def _stop(message: str, status: int = 1) -> NoReturn:
    typer.echo(f"fibo: {message}", err=True)
    sys.exit(status)


def _drop_output() -> None:
    """Where standard output takes no more, forget what is left, which its closing would try again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
