"""`--json` takes a file or `-`, in every command that has it."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from fibo_robot.cli.json_result import write_result
from fibo_robot.cli.main import app


def commands(command: Any, name: str = "fibo") -> dict[str, Any]:
    """Every command that does something, by its whole name; typer's kind of click's objects."""
    if not hasattr(command, "commands"):
        return {name: command}
    return {
        whole: found
        for part, inner in command.commands.items()
        for whole, found in commands(inner, f"{name} {part}").items()
    }


def json_options() -> dict[str, Any]:
    return {
        name: parameter
        for name, command in commands(typer.main.get_command(app)).items()
        for parameter in command.params
        if "--json" in parameter.opts
    }


def test_json_option_takes_a_file_in_every_command() -> None:
    options = json_options()
    assert {"fibo demos replay", "fibo doctor", "fibo classify", "fibo bench attention"} <= set(options)
    flags = [name for name, option in options.items() if option.is_flag]
    assert flags == []


def test_a_result_goes_to_a_file_or_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(str(tmp_path / "new" / "result.json"), {"a": [1]})
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == {"a": [1]}
    assert capsys.readouterr().out == ""
    write_result("-", {"a": [1]})
    assert json.loads(capsys.readouterr().out) == {"a": [1]}
