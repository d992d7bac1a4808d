"""Options that the subcommands of `fibo bench` share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fibo_robot.errors import FiboError
from fibo_robot.files import check_writable


def writable(file: Path | None) -> Path | None:
    """The file that an option names; raises OSError now where it could not be written after the work."""
    if file is not None and not is_standard_output(file):
        check_writable(file)
    return file


JsonFile = Annotated[
    Path | None,
    typer.Option(
        callback=writable,
        help="Write the rows to this JSON file; - writes them to standard output, and no table.",
    ),
]


class Device(StrEnum):
    """Where a benchmark runs."""

    CPU = "cpu"
    CUDA = "cuda"


def is_standard_output(json: Path | None) -> bool:
    """Whether the rows go to standard output, so that nothing else may."""
    return str(json) == "-"


def whole_numbers(option: str, text: str, least: int = 1) -> list[int]:
    """Read `1,2,4`, none of them less than `least`.

    Raises:
        FiboError: naming the option.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise FiboError(f"{option} must be whole numbers separated by commas, not {text!r}.") from error
    if min(numbers) < least:
        raise FiboError(f"{option} must be at least {least}, not {min(numbers)}.")
    return numbers
